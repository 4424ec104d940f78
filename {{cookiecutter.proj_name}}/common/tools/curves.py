"""The curves of an experiment, read from its ``metrics.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path

from common.config.errors import UserError

_PLACE = {"split", "epoch", "step", "time"}


def read_curves(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and values of each curve, by ``<split>/<name>``; values that were not finite are skipped.

    Args:
        folder: An experiment's folder, or its ``metrics.jsonl``.

    Raises:
        UserError: There is no such file, or a line is not a JSON object.
    """
    path = folder / "metrics.jsonl" if folder.is_dir() else folder
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected an experiment's folder or its metrics.jsonl") from None
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            for name, value in values.items():
                if name not in _PLACE and value is not None:
                    steps, numbers = curves.setdefault(f"{values['split']}/{name}", ([], []))
                    steps.append(values["step"])
                    numbers.append(float(value))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}:{number}: expected what a run has written, found {line[:60]!r}") from error
    return curves
