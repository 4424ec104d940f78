"""Where a run leaves its curves: TensorBoard in ``event/`` and one JSON object a line in ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from common.distributed import get_rank


class Monitor:
    """Writes scalars and pictures of one experiment.

    Args:
        folder: The experiment's folder; created if needed. Lines are appended to an existing ``metrics.jsonl``.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._writer = SummaryWriter(str(folder / "event"))
        self._jsonl = (folder / "metrics.jsonl").open("a", encoding="utf-8")

    def add_scalars(self, split: str, values: Mapping[str, float], epoch: int, step: int) -> None:
        """Record the values under ``<split>/<name>``: all in one TensorBoard event, and as one line of JSON.

        A value that is not finite is null in JSON, which has no such numbers.
        """
        scalars = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self._writer.file_writer.add_event(Event(summary=Summary(value=scalars)), step)
        line = {"split": split, "epoch": epoch, "step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._jsonl.write(json.dumps(line) + "\n")
        self._jsonl.flush()

    def add_image(self, split: str, name: str, image: torch.Tensor, step: int, file: Path | None = None) -> None:
        """Record a picture under ``<split>/<name>``, and as a PNG file too if ``file`` (below ``progress/``) is given.

        Args:
            split: ``train``, ``val`` or ``eval``.
            name: The picture's name.
            image: (3, H, W) or (1, H, W), floating values in [0, 1] or uint8.
            step: The iteration it belongs to.
            file: Where to write it, relative to the experiment's ``progress/<split>/``.
        """
        self._writer.add_image(f"{split}/{name}", image, step)
        if file is not None:
            path = self._folder / "progress" / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = image if image.dtype == torch.uint8 else (image.float().clamp(0, 1) * 255).round().byte()
            Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()).save(path)

    def flush(self) -> None:
        """Bring everything to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()
        self._jsonl.close()


class NullMonitor:
    """A monitor for the ranks that write nothing: the same methods, no effect."""

    def add_scalars(self, *args, **kwargs) -> None:
        """Do nothing."""

    def add_image(self, *args, **kwargs) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_monitor(folder: Path) -> Monitor | NullMonitor:
    """Return the experiment's monitor on rank 0 and one that does nothing elsewhere."""
    return Monitor(folder) if get_rank() == 0 else NullMonitor()
