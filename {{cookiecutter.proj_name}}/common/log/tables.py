"""The tables of an evaluation."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.log.console import add_log

Row = dict[str, Any]


def write_tables(folder: Path, summary: dict[str, float], rows: list[Row], find_path: Callable[[int], Any]) -> None:
    """Write ``summary.json`` and ``summary.csv`` with each mean and metric, and ``samples.csv`` with a line a sample.

    ``find_path`` returns the file of the sample of a number, or None.
    """
    for name, value in summary.items():
        add_log(f"eval | {name} {value:.4f}")
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    write_csv(folder / "summary.csv", [{"name": name, "value": value} for name, value in summary.items()])
    paths = [find_path(row["sample"]) for row in rows]
    write_csv(
        folder / "samples.csv", [row | ({"file": str(p)} if p else {}) for row, p in zip(rows, paths, strict=True)]
    )


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write a table with a line for each row; its header has every name that a row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
