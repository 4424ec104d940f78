"""The text files of a folder as tokens in one memory-mapped file, which is written again when the files change."""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from common.config.errors import UserError
from common.data import split_groups
from common.log.console import add_log
from common.text.tokens import Tokens, open_tokens

STDLIB = "stdlib"
SPLITS = {"train": 0.9, "val": 0.05, "eval": 0.05}
_FEW = 20  # files; fewer are each divided themselves
_CHUNK = 1 << 24  # bytes that are encoded at a time
_HEADER = 1024  # bytes of JSON at the head of a corpus's file
_FORMAT = 1
# Of the standard library: tests, tables of characters and of help, and what is installed beside it.
_LEFT_OUT = {"test", "tests", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}

Part = tuple[Path, int, int]  # a file, and where its part begins and ends, in bytes


@dataclass
class Corpus:
    """The tokens of one split. It travels to another process as a path: the file is mapped where it is first read.

    ``tokens`` is (length,) of ``dtype``, and not in memory. ``bytes_per_token`` is the mean length of a token's text.
    """

    path: Path
    dtype: np.dtype
    first: int
    length: int
    bytes_per_token: float

    @cached_property
    def tokens(self) -> np.ndarray:
        """The tokens, mapped into memory."""
        offset = _HEADER + self.first * self.dtype.itemsize
        return np.memmap(self.path, self.dtype, "r", offset, (self.length,))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "tokens"}


def open_corpus(
    source: str | Path, split: str, tokenizer: str | None = None, cache: str | Path = "data/text"
) -> Corpus:
    """Return a split of the text files in a folder, encoded before if they have changed or it never was.

    The files come in the order of their names; a hidden one, or one with a byte of 0, is none. 90 % of them are for
    training, 5 % each for ``val`` and ``eval``; of fewer than 20 files each is divided so, at the end of a line.

    Args:
        source: A folder, a single file, or ``stdlib``: the source code of Python's standard library, without its tests
            and tables.
        split: ``train``, ``val`` or ``eval``.
        tokenizer: A ``tokenizer.json`` of the library ``tokenizers``; None for bytes.
        cache: The folder of the encoded file.

    Raises:
        UserError: No text is found, or the encoded file cannot be written.
    """
    tokens = open_tokens(tokenizer)
    root, files = find_texts(source)
    fingerprint = _fingerprint(root, files, tokenizer)
    key = hashlib.sha256(f"{root.resolve()}\0{tokenizer}".encode()).hexdigest()[:8]
    path = Path(cache) / f"{root.name if str(source) != STDLIB else STDLIB}-{key}.bin"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of several processes, one writes it
            header = _read_header(path)
            if header.get("fingerprint") != fingerprint:
                add_log(f"{source}: encoding {len(files):,} text files into {path}")
                header = _write(path, root, files, tokens, fingerprint)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    names = list(SPLITS)
    counts = header["tokens"]
    first = sum(counts[name] for name in names[: names.index(split)])
    return Corpus(path, tokens.dtype, first, counts[split], header["bytes"][split] / max(1, counts[split]))


def find_texts(source: str | Path) -> tuple[Path, list[Path]]:
    """Return the root of a source and its text files in the order of their names; see ``open_corpus``."""
    is_stdlib = str(source) == STDLIB and not Path(source).exists()
    root = Path(sysconfig.get_paths()["stdlib"]) if is_stdlib else Path(source)
    if not root.exists():
        raise UserError(f"{source}: no such folder of texts; --dir.data_dir takes a folder, a file, or {STDLIB}")
    candidates = [root] if root.is_file() else sorted(_walk(root, _LEFT_OUT if is_stdlib else set()))
    files = [path for path in candidates if (not is_stdlib or path.suffix == ".py") and _is_text(path)]
    if not files:
        raise UserError(f"{source}: none of its {len(candidates):,} files is a text that can be read")
    skipped = len(candidates) - len(files)
    if skipped and not is_stdlib:
        first = next(path for path in candidates if path not in set(files))
        add_log(f"{source}: {skipped:,} files are no text, such as {first}", "WARNING")
    return root, files


def _walk(root: Path, left_out: set[str]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in left_out]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _is_text(path: Path) -> bool:
    """Return whether a file can be read, holds something, and begins without a byte of 0."""
    try:
        with path.open("rb") as file:
            start = file.read(1 << 13)
    except OSError:
        return False
    return bool(start) and b"\0" not in start


def _fingerprint(root: Path, files: list[Path], tokenizer: str | None) -> str:
    """Return what changes when a file does: names, sizes and times of all of them."""
    digest = hashlib.sha256(f"{_FORMAT}".encode())
    for path in [*files, *([Path(tokenizer)] if tokenizer else [])]:
        status = path.stat()
        digest.update(f"{os.path.relpath(path, root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_header(path: Path) -> dict[str, Any]:
    """Return the header of an encoded file, or nothing if there is none, or the file is not whole."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(_HEADER))
        return header if header["size"] == path.stat().st_size else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _write(path: Path, root: Path, files: list[Path], tokens: Tokens, fingerprint: str) -> dict[str, Any]:
    """Write the tokens of all splits, one after the other, aside and then in the place of what was there."""
    header: dict[str, Any] = {"fingerprint": fingerprint, "tokens": {}, "bytes": {}}
    aside = path.with_suffix(".tmp")
    with aside.open("wb") as file:
        file.write(bytes(_HEADER))
        for split, parts in divide(root, files).items():
            length = count = 0
            for part in parts:
                for encoded, size in _encode(part, tokens):
                    file.write(encoded.tobytes())
                    count, length = count + len(encoded), length + size
            header["tokens"][split], header["bytes"][split] = count, length
        header["size"] = file.tell()
        file.seek(0)
        file.write(json.dumps(header).ljust(_HEADER).encode())
    aside.replace(path)
    return header


def divide(root: Path, files: list[Path]) -> dict[str, list[Part]]:
    """Return the parts of files that each split has."""
    sizes = [path.stat().st_size for path in files]
    if len(files) >= _FEW:
        names = [os.path.relpath(path, root) for path in files]
        chosen = split_groups(names, list(SPLITS.values()), seed=0)
        return {split: [(files[i], 0, sizes[i]) for i in one] for split, one in zip(SPLITS, chosen, strict=True)}
    parts: dict[str, list[Part]] = {split: [] for split in SPLITS}
    for path, size in zip(files, sizes, strict=True):
        begin, share = 0, 0.0
        for split in SPLITS:
            share += SPLITS[split]
            end = size if split == list(SPLITS)[-1] else max(begin, _line_end(path, round(share * size)))
            parts[split].append((path, begin, end))
            begin = end
    return parts


def _line_end(path: Path, place: int) -> int:
    """Return the first place after a line's end from a place on, or the place itself in a long line."""
    with path.open("rb") as file:
        file.seek(place)
        return place + file.read(1000).find(b"\n") + 1


def _encode(part: Part, tokens: Tokens) -> Iterable[tuple[np.ndarray, int]]:
    """Yield the tokens of a part, and how many bytes they stand for, in front of it the separator of texts."""
    path, begin, end = part
    if begin == end:
        return
    yield np.array(tokens.separator, tokens.dtype), len(tokens.separator)
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end:
            data = file.read(min(_CHUNK, end - begin))
            if not data:  # it has become shorter
                return
            begin += len(data)
            if begin < end:  # to the end of a line, so that no word is cut in two
                data += (rest := file.readline(min(1000, end - begin)))
                begin += len(rest)
            yield tokens.encode(data), len(data)
