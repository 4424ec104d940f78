"""Photographs of fabrics that are drawn, not taken: a set to begin with, until there are photographs of one's own."""

from __future__ import annotations

import math
import shutil
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from common.config.errors import UserError
from common.log.console import add_log

WIDTH, HEIGHT = 480, 360
PHOTOGRAPHS = 100  # of each pattern


def _wave(x: np.ndarray) -> np.ndarray:
    """Return a wave of period 1 between -1 and 1, with straight edges."""
    return 4 * abs(x - np.floor(x + 0.5)) - 1


def _in_cell(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place in one cell of a lattice whose rows are shifted in turn, from -0.5 to 0.5."""
    row = np.floor(v)
    return u + row / 2 - np.floor(u + row / 2) - 0.5, v - row - 0.5


def _striped(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _wave(u) * 0.4


def _checked(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 * (np.clip(4 * _wave(u), -1, 1) + np.clip(4 * _wave(v), -1, 1)) * 0.2


def _zigzag(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _wave(v + 0.35 * _wave(u / 1.5)) * 0.4


def _dotted(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = _in_cell(u, v)
    return 0.28 - np.hypot(x, y)


def _flowered(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = _in_cell(u / 1.4, v / 1.4)
    distance = np.hypot(x, y)
    return np.minimum(0.3 + 0.14 * np.cos(5 * np.arctan2(y, x)) - distance, distance - 0.09)


# How far each place, in periods of the pattern, is inside of the second color.
PATTERNS = {
    "checked": _checked,
    "dotted": _dotted,
    "flowered": _flowered,
    "striped": _striped,
    "zigzag": _zigzag,
}


def draw_fabrics(folder: Path) -> None:
    """Draw the set into ``<folder>/<pattern>/<number>.jpg``, always the same, unless the folder exists.

    One of several processes draws while the others wait. Raise a UserError where the folder cannot be written.
    """
    from filelock import FileLock

    if folder.exists():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.exists():
                return
            add_log(f"{folder}: drawing {len(PATTERNS) * PHOTOGRAPHS} photographs of fabrics, once")
            unfinished = folder.with_name(f".{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for pattern in PATTERNS:
                (unfinished / pattern).mkdir(parents=True)
                for number in range(PHOTOGRAPHS):
                    draw_photo(pattern, number).save(unfinished / pattern / f"{number:03d}.jpg", quality=90)
            unfinished.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be drawn: {error}") from error


def draw_photo(pattern: str, number: int) -> Image.Image:
    """Return a photograph of a fabric in two colors, at some angle, folded, in some light."""
    random = np.random.default_rng([zlib.crc32(pattern.encode()), number])
    colors = np.stack([random.uniform(0.05, 0.45, 3), random.uniform(0.55, 1.0, 3)])
    if random.random() < 0.5:  # dark on light
        colors = colors[::-1]
    period = random.uniform(60, 110)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x, y = x - WIDTH / 2, y - HEIGHT / 2
    tilt, turn = random.uniform(-3e-4, 3e-4, 2).tolist(), random.uniform(0, 2 * math.pi)
    depth = (1 + tilt[0] * x + tilt[1] * y) * period
    fold = random.uniform(0, 0.08) * np.sin(random.uniform(0.005, 0.02) * (x + y) + random.uniform(0, 6))
    u = (x * math.cos(turn) + y * math.sin(turn)) / depth + random.uniform() + fold
    v = (y * math.cos(turn) - x * math.sin(turn)) / depth + random.uniform() + fold
    share = np.clip(0.5 + PATTERNS[pattern](u, v) * period / 3, 0, 1)
    light = 1 + random.uniform(-1e-3, 1e-3) * x + random.uniform(-1e-3, 1e-3) * y + 3 * fold
    weave = 0.035 * random.standard_normal((HEIGHT, WIDTH), np.float32)
    light = (light + weave) * (255 * random.uniform(0.7, 1.05))
    channels = [(first + (second - first) * share) * light for first, second in zip(*colors.tolist(), strict=True)]
    return Image.merge("RGB", [Image.fromarray(c.clip(0, 255).astype(np.uint8)) for c in channels])
