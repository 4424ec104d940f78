"""Predictions of many files: a line each on the console, tables and pictures in a folder."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from common.config.errors import UserError, closest
from common.deploy.predictor import Answer, InputError, Predictor, Sample


def predict_files(
    predictor: Predictor, given: str, output: Path | None, batch_size: int = 32, worker: int = 0
) -> tuple[int, int]:
    """Predict each input, print its answer, and write all of them to a folder.

    Args:
        predictor: The model and its task.
        given: A file, a folder, a pattern such as ``photos/*.jpg``, or ``-`` for the standard input.
        output: The folder for ``predictions.csv`` and ``predictions.jsonl``, and for pictures if the task has some.
        batch_size: How many inputs to predict at once.
        worker: Processes that read files.

    Returns:
        How many inputs were predicted, and how many could not be; each of the latter is named on stderr.

    Raises:
        UserError: There is no such input, or the folder cannot be written to.
    """
    root, paths = (Path(), [Path("-")]) if given == "-" else find_inputs(given, output)
    counts = [0, 0]
    with ExitStack() as stack:
        writer = stack.enter_context(Writer(output, root)) if output else None
        bar = stack.enter_context(tqdm(total=len(paths), unit="input", disable=not sys.stderr.isatty()))
        for path, answer in predict_all(predictor, paths, batch_size, worker):
            failed = isinstance(answer, InputError)
            line = f"{path}: {answer if failed else predictor.task.describe(answer)}"
            (print if bar.disable else tqdm.write)(line, file=sys.stderr if failed else sys.stdout)
            if writer and not failed:
                writer.write(path, answer)
            counts[failed] += 1
            bar.update()
    return counts[0], counts[1]


def find_inputs(given: str, output: Path | None = None) -> tuple[Path, list[Path]]:
    """Return the files that a name or a pattern means, sorted, and the folder that they have in common.

    A folder means every file below it, except hidden ones and those in the folder ``output``.
    """
    folder = Path(given)
    if folder.is_file():
        return folder.parent, [folder]
    root = folder if folder.is_dir() else Path(glob.escape(given).partition("[")[0]).parent
    names = _files_below(given, output) if folder.is_dir() else filter(os.path.isfile, glob.glob(given, recursive=True))
    paths = [Path(name) for name in sorted(names)]
    if not paths:
        match = closest(folder.name, [path.name for path in folder.parent.glob("*")])
        hint = f", did you mean '{match}'?" if match else ""
        raise UserError(f"--input {given}: {'holds no file' if folder.is_dir() else f'no such file{hint}'}")
    return root, paths


def _files_below(folder: str, output: Path | None) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        inner = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in inner if not (output and _is_same(Path(place, name), output))]
        yield from (os.path.join(place, name) for name in names if not name.startswith("."))


def _is_same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


class _Inputs(Dataset):
    """The samples of files, or why they cannot be read."""

    def __init__(self, predictor: Predictor, paths: list[Path]):
        self.predictor = predictor
        self.sources = [_standard_input(predictor)] if paths == [Path("-")] else paths

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[int, Sample | InputError]:
        try:
            return index, self.predictor.read(self.sources[index])
        except InputError as error:
            return index, error


def _standard_input(predictor: Predictor) -> Any:
    data = sys.stdin.buffer.read()
    return data.decode("utf-8", errors="replace") if predictor.task.accepts == "text" else io.BytesIO(data)


def predict_all(
    predictor: Predictor, paths: list[Path], batch_size: int, worker: int
) -> Iterator[tuple[Path, Answer | InputError]]:
    """Yield each file with its answer, or with why there is none, in order."""
    for items in DataLoader(_Inputs(predictor, paths), batch_size, num_workers=worker, collate_fn=list):
        found: dict[int, Any] = dict(items)
        readable = [index for index, sample in items if not isinstance(sample, InputError)]
        found.update(zip(readable, predictor.predict([found[index] for index in readable]), strict=True))
        for index, answer in found.items():
            yield paths[index], answer


class Writer:
    """Writes answers as they come: a line each in ``predictions.csv`` and ``.jsonl``, and a file for each picture.

    Args:
        folder: Where to write; made if it does not exist.
        root: The folder that all inputs have in common; pictures are named after what is below it.
    """

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = folder, root

    def __enter__(self) -> Writer:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._csv = (self.folder / "predictions.csv").open("w", newline="", encoding="utf-8")
            self._jsonl = (self.folder / "predictions.jsonl").open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--output {self.folder}: {error.strerror}") from None
        self._table: csv.DictWriter | None = None
        return self

    def __exit__(self, *error: object) -> None:
        self._csv.close()
        self._jsonl.close()

    def write(self, path: Path, answer: Answer) -> None:
        """Write the answer for one input."""
        line: dict[str, Any] = {"input": str(path)}
        for key, value in answer.items():
            line[key] = self._picture(key, path, value) if isinstance(value, bytes) else value
        print(json.dumps(line), file=self._jsonl)
        row = _flat(line)
        if self._table is None:
            self._table = csv.DictWriter(self._csv, list(row), extrasaction="ignore")
            self._table.writeheader()
        self._table.writerow(row)

    def _picture(self, key: str, path: Path, data: bytes) -> str:
        name = f"{key}/{path.relative_to(self.root)}.png"
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)
        return name


def _flat(line: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a line with the keys of the dicts in it beside the others: ``probabilities.7``."""
    flat: dict[str, Any] = {}
    for key, value in line.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
