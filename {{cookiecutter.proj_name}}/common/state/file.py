"""One checkpoint file: whole or not there, and proven by a digest.

It is the zip archive that ``torch.save`` makes, and ``torch.load(file, weights_only=True)`` reads it. The archive's
comment (``unzip -z file`` shows it) holds the SHA-256 of all that ``torch.save`` wrote, since torch itself loads most
files with a flipped bit without a word.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from common.config.errors import UserError, nearest
from common.sharding.files import SHARDS, find_shard_fault, mark_stored, read_all

_LABEL = b"checkpoint 1 sha256 "
_SHARDED = b"checkpoint 1 shards "  # as long, followed by the same, of a file with a folder of shards beside it
_COMMENT = len(_LABEL) + 64
_NO_COMMENT = b"\0\0"  # how torch ends a file: the length of the archive's comment


class _Hashed:
    """A file that takes the digest of all that is written to it, and remembers why a write failed."""

    def __init__(self, file: BinaryIO):
        self._file, self.sha256, self.error = file, hashlib.sha256(), None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        try:
            return self._file.write(data)
        except OSError as error:  # torch turns it into a RuntimeError about positions in the file
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def write_durably(state: dict[str, Any], path: Path) -> None:
    """Write a state to a new file and bring it to the disk. Until this returns the file is not to be used.

    Raises:
        OSError: The disk is full, or the file cannot be written.
    """
    with path.open("wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save(state, hashed)
        except RuntimeError:
            raise hashed.error or OSError(f"{path}: cannot be written") from None
        comment = (_SHARDED if SHARDS in state else _LABEL) + hashed.sha256.hexdigest().encode()
        file.seek(-len(_NO_COMMENT), os.SEEK_END)
        file.write(len(comment).to_bytes(2, "little") + comment)
        file.flush()
        os.fsync(file.fileno())


def link(source: Path, target: Path) -> None:
    """Give a finished file a further name, in one step; where a file system knows no links, as a copy."""
    beside = target.with_name(f"{target.name}.tmp")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
    beside.replace(target)
    beside.unlink(missing_ok=True)  # it stays where both are one file already


def flush_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened, nor need it be
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_fault(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file, or None if it is to the last bit what was written."""
    try:
        return _find_fault(path)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _find_fault(path: Path) -> str | None:
    body = path.stat().st_size - _COMMENT - len(_NO_COMMENT)
    if body <= 0:
        return "it is empty or cut short"
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = body
        while left and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
        end = file.read()
    digest.update(_NO_COMMENT)
    label, found = end[2 : 2 + len(_LABEL)], end[2 + len(_LABEL) :]
    if end[:2] != _COMMENT.to_bytes(2, "little") or label not in (_LABEL, _SHARDED):
        return "it does not end in the digest of a checkpoint: cut short, foreign, or of an older version"
    if found != digest.hexdigest().encode():
        return "it is damaged: its bytes do not have the digest it was written with"
    if label == _LABEL:
        return None
    try:
        return find_shard_fault(path.parent, _load_file(path)[SHARDS])
    except Exception:  # whatever a foreign file holds there
        return "what it says of its shards cannot be read"


def find_shards(path: Path) -> Path | None:
    """Return the folder of shards beside a checkpoint's file, if it has one."""
    with path.open("rb") as file:
        file.seek(-_COMMENT, os.SEEK_END)
        is_sharded = file.read(len(_SHARDED)) == _SHARDED
    return path.parent / _load_file(path)[SHARDS]["folder"] if is_sharded else None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the parts of a checkpoint that this project wrote, on the CPU; what is in shards as ``Stored``.

    Raises:
        UserError: No such file, damaged, or none of ours.
    """
    _check_there(path)
    fault = find_fault(path)
    if fault:
        raise UserError(f"{path}: no checkpoint to go on from: {fault}")
    state = _load(path)
    return mark_stored(state, path.parent / Path(state[SHARDS]["folder"]).name) if SHARDS in state else state


def read_plain(path: Path) -> dict[str, Any]:
    """Return the dict in any file of ``torch.save``, on the CPU. One of ours is checked by its digest.

    Raises:
        UserError: No such file, damaged, no file of ``torch.save``, or one that asks for code: only plain data and
            tensors are loaded.
    """
    _check_there(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = find_fault(path) if archive.comment else archive.testzip()
    except Exception as error:  # zipfile raises a dozen kinds, which all mean this
        raise UserError(f"{path}: no checkpoint: foreign, damaged, or of torch before 1.6") from error
    if damaged:
        raise UserError(f"{path}: no checkpoint: it is damaged")
    if not archive.comment.startswith(_SHARDED):
        return _load(path)
    try:
        return read_all(read_checkpoint(path))
    except Exception as error:
        raise UserError(f"{path}: its shards are foreign, damaged, or ask for code to be run") from error


def _check_there(path: Path) -> None:
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.glob("*.pt")) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such checkpoint, {nearest(path.name, beside)}")


def _load(path: Path) -> dict[str, Any]:
    try:
        state = _load_file(path)
    except Exception as error:  # torch.load raises a dozen kinds, which all mean this
        raise UserError(f"{path}: no checkpoint: it is foreign, damaged, or asks for code to be run") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path}: expected a dict of parts, found {type(state).__name__}")
    return state


def _load_file(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)
