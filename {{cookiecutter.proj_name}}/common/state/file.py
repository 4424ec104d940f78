"""One checkpoint file: complete or not there, and proven by a digest. And the weights of a model, in it or any other.

It is the zip archive of ``torch.save``. The archive's comment (``unzip -z file`` shows it) numbers the saves of a run,
and holds the SHA-256 of the number and of all that ``torch.save`` wrote: ``torch.load`` accepts most flipped bits.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from common.config.errors import UserError, nearest
from common.config.registry import open_room
from common.run.strategy import WHOLE, Strategy

SHARDS = "shards"
FORMAT = 1
_NO_COMMENT = b"\0\0"  # the end of a file of torch.save: the length of the archive's comment
# "shards" in place of "sha256": a folder of shards belongs to the file. The first releases did not number the saves.
_END = re.compile(rb"(..)(checkpoint 1 (sha256|shards) ([0-9a-f]{64})( save \d{10})?)", re.DOTALL)


class _Hashed:
    """A file that hashes what is written to it and remembers why a write failed."""

    def __init__(self, file: BinaryIO):
        self._file, self.flush, self.sha256 = file, file.flush, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        try:
            return self._file.write(data)
        except OSError as error:  # torch turns it into a RuntimeError about positions in the file
            self.error = error
            raise


def write_durably(state: dict[str, Any], path: Path, save: int = 0) -> None:
    """Write a state to a new file, as save number ``save`` of a run, and flush it. Raise an OSError if that fails."""
    with path.open("wb") as file:
        hashed: Any = _Hashed(file)
        try:
            torch.save(state, hashed)
        except RuntimeError:
            raise hashed.error or OSError(f"{path}: cannot be written") from None
        number, kind = b" save %010d" % save, b"shards" if SHARDS in state else b"sha256"
        hashed.sha256.update(number)
        comment = b"checkpoint 1 %b %b%b" % (kind, hashed.sha256.hexdigest().encode(), number)
        file.seek(-len(_NO_COMMENT), os.SEEK_END)
        file.write(len(comment).to_bytes(2, "little") + comment)
        file.flush()
        os.fsync(file.fileno())


def link(source: Path, target: Path) -> None:
    """Give a finished file another name atomically; a copy on file systems without hard links."""
    beside = target.with_name(f"{target.name}.tmp")
    beside.unlink(missing_ok=True)
    try:
        os.link(source, beside)
    except OSError:
        shutil.copyfile(source, beside)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
    beside.replace(target)
    beside.unlink(missing_ok=True)  # replace leaves it if both names are the same file already


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk (POSIX; elsewhere it is neither possible nor needed)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_format(path: Path) -> int | None:
    """Return the format of a checkpoint file: 0 if ``torch.save`` alone wrote it, None if it is no archive.

    One of another format is read whole: None if it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            label = re.match(rb"checkpoint (\d+) ", archive.comment)
            found = int(label[1]) if label else 0
            return None if found != FORMAT and archive.testzip() else found
    except OSError:
        raise
    except Exception:  # zipfile raises a dozen types, which all mean this
        return None


def find_fault(path: Path, for_weights: bool = False) -> str | None:
    """Return what is wrong with a checkpoint file, or None if every bit is as it was written.

    ``for_weights`` accepts another format. Raise a UserError if it is sharded and the room ``sharding`` is missing.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            end = _read_end(file)
            if end is None:
                return _find_other_format(path, for_weights)
            remaining = file.seek(0, os.SEEK_END) - len(end[0])
            file.seek(0)
            while remaining > 0 and (chunk := file.read(min(remaining, 1 << 20))):
                digest.update(chunk)
                remaining -= len(chunk)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    digest.update(_NO_COMMENT + (end[5] or b""))
    if end[4] != digest.hexdigest().encode():
        return "it is damaged: its bytes do not have the digest it was written with"
    if end[3] != b"shards":
        return None
    room = open_room("sharding.files", str(path))
    try:
        return room.find_shard_fault(path.parent, _load(path)[SHARDS])
    except Exception:  # whatever a foreign file holds there
        return "its description of its shards cannot be read"


def _find_other_format(path: Path, for_weights: bool) -> str | None:
    """Return what is wrong with a file that does not end like a checkpoint of this format."""
    version = read_format(path)
    if version in (None, FORMAT):
        return "it does not end in the digest of a checkpoint: cut short or foreign"
    kind = "" if version else " (no digest: of another program, or of an engine before its first release)"
    hint = f"this engine resumes from format {FORMAT}; --progress.start_epoch 0 takes the weights alone"
    return None if for_weights else f"it has format {version}{kind}, {hint}"


def is_sharded(path: Path) -> bool:
    """Return whether a folder of shards belongs to a checkpoint file."""
    with path.open("rb") as file:
        end = _read_end(file)
    return end is not None and end[3] == b"shards"


def save_number(path: Path) -> int:
    """Return which save of its run wrote a file: 0 if it does not say, -1 if it cannot be read."""
    try:
        with path.open("rb") as file:
            end = _read_end(file)
    except OSError:
        return -1
    return int(end[5].split()[1]) if end and end[5] else 0


def _read_end(file: BinaryIO) -> re.Match[bytes] | None:
    """Return the archive's comment with its length in front, in groups; None if it is no checkpoint's."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 120))
    end = _END.search(file.read())
    return end if end and end.end() == len(end.string) and int.from_bytes(end[1], "little") == len(end[2]) else None


def read_checkpoint(path: Path, whole: bool = True) -> dict[str, Any]:
    """Return the parts of a checkpoint of this project, on the CPU. Raise a UserError if it is damaged or foreign.

    Sharded tensors are read whole, or else stay ``Stored``, for a sharded strategy to distribute.
    """
    _check_exists(path)
    if fault := find_fault(path):
        raise UserError(f"{path}: no checkpoint to go on from: {fault}")
    state = _load(path)
    if SHARDS not in state:
        return state
    room = open_room("sharding.files", str(path))
    try:
        return room.read_shards(state, path.parent / Path(state[SHARDS]["folder"]).name, whole)
    except Exception as error:
        raise UserError(f"{path}: its shards are foreign, damaged, or ask for code to be run") from error


def read_plain(path: Path) -> dict[str, Any]:
    """Return the dict in any file of ``torch.save``, on the CPU; one of this project as ``read_checkpoint`` does.

    Raise a UserError if the file is damaged, foreign, or holds more than plain data and tensors.
    """
    _check_exists(path)
    try:
        found = read_format(path)
    except OSError as error:
        raise UserError(f"{path}: no checkpoint: it cannot be read: {error.strerror}") from error
    if found is None:
        raise UserError(f"{path}: no checkpoint: foreign, damaged, or of torch before 1.6")
    return read_checkpoint(path) if found == FORMAT else _load(path)


def _check_exists(path: Path) -> None:
    try:
        is_file = path.is_file()
    except OSError as error:  # a folder may not be entered
        raise UserError(f"{path}: no checkpoint: it cannot be read: {error.strerror}") from None
    if not is_file:
        raise UserError(f"{path}: no such checkpoint, {nearest(path.name, [p.name for p in path.parent.glob('*.pt')])}")


def _load(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: no checkpoint: it cannot be read: {error.strerror}") from error
    except Exception as error:  # torch.load raises a dozen types, which all mean this
        raise UserError(f"{path}: no checkpoint: it is foreign, damaged, or asks for code to be run") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path}: expected a dict of parts, found {type(state).__name__}")
    return state


def read_weights(path: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """Return a model's weights from a checkpoint, averaged ones if it holds them, or from a bare state dict.

    ``name`` is the model's part. Raise a UserError if the file holds no such model.
    """
    state = read_plain(path)
    if _is_state_dict(state.get(name)):
        average = state.get(name.replace("model", "ema", 1))
        averaged: Any = average.get("weights") if isinstance(average, dict) else None
        return {**state[name], **(averaged if _is_state_dict(averaged) else {})}
    if _is_state_dict(state):
        return state
    raise UserError(f"{path}: holds no '{name}', {nearest(name, state)}")


def _is_state_dict(value: Any) -> bool:
    """Return whether a value has names and plain tensors in memory, and nothing else."""
    if not isinstance(value, Mapping) or not value or not all(isinstance(name, str) for name in value):
        return False
    if any(type(tensor) not in (torch.Tensor, torch.nn.Parameter) for tensor in value.values()):
        return False
    kinds = {(tensor.device.type, tensor.layout, tensor.is_quantized) for tensor in value.values()}
    return kinds == {("cpu", torch.strided, False)}


def load_exactly(model: torch.nn.Module, path: Path, name: str = "model") -> None:
    """Load a checkpoint's weights of the part ``name``; raise a UserError unless each name and shape is the model's."""
    weights = read_weights(path, name)
    expected, found = ({key: tuple(v.shape) for key, v in state.items()} for state in (model.state_dict(), weights))
    for key in {**expected, **found}:
        if expected.get(key) != found.get(key):
            shapes = f"expected {expected.get(key, 'no such key')}, found {found.get(key, 'no such key')}"
            raise UserError(f"{path}: does not fit {type(model).__name__}: '{key}': {shapes}")
    model.load_state_dict(weights)


def load_matching(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], where: str, strategy: Strategy = WHOLE
) -> list[str]:
    """Load the weights whose names and shapes match into an unwrapped model.

    Return a line for each other key, with the reason. Raise a UserError, which names the file ``where``, if none match.
    """
    own = model.state_dict()
    matching = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not matching:
        raise UserError(f"{where}: none of its {len(weights)} weights fits the model {type(model).__name__}")
    model.load_state_dict(strategy.distribute(matching, own), strict=False)
    unfit = [key for key in weights if key in own and key not in matching]
    report = [f"{key}: not in the file" for key in own if key not in weights]
    report += [f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model" for key in unfit]
    return report + [f"{key}: not in the model" for key in weights if key not in own]
