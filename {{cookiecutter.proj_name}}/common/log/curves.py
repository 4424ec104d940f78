"""Where a run leaves its curves: TensorBoard in ``event/`` and one JSON object a line in ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image as image_summary

from common.log.console import add_log
from common.run.distributed import get_rank
from common.vision.pictures import write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Monitor:
    """Writes scalars and pictures of one experiment.

    As a part of a checkpoint it knows how long its files were, and cuts them back when a run goes on from there, so
    that no step appears twice. A run that begins anew in a folder empties them.

    Args:
        folder: The experiment's folder; created if needed.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._state: dict = {"step": -1, "sizes": {}}
        self._files: dict[str, _GrowingFile] = {}

    def add_scalars(self, split: str, values: Mapping[str, float], epoch: int, step: int) -> None:
        """Record the values under ``<split>/<name>``: all in one TensorBoard event, and as one line of JSON.

        A value that is not finite is null in JSON, which has no such numbers.
        """
        scalars = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self._add_summary(Summary(value=scalars), step)
        line = {"split": split, "epoch": epoch, "step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._files["metrics.jsonl"].write(json.dumps(line).encode() + b"\n")

    def add_image(self, split: str, name: str, image: torch.Tensor, step: int, file: Path | None = None) -> None:
        """Record a picture under ``<split>/<name>``, and as a PNG file too if ``file`` (below ``progress/``) is given.

        Args:
            split: ``train``, ``val`` or ``eval``.
            name: The picture's name.
            image: (3, H, W) or (1, H, W), floating values in [0, 1] or uint8.
            step: The iteration it belongs to.
            file: Where to write it, relative to the experiment's ``progress/<split>/``.
        """
        self._add_summary(image_summary(f"{split}/{name}", image, dataformats="CHW"), step)
        if file is not None:
            write_picture(image, self._folder / "progress" / split / file)

    def add_figure(self, split: str, name: str, figure: Figure, step: int) -> None:
        """Record a figure of matplotlib under ``<split>/<name>``."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = torch.tensor(np.asarray(canvas.buffer_rgba())[..., :3])
        self.add_image(split, name, pixels.permute(2, 0, 1), step)

    def state_dict(self) -> dict:
        """Return the last step recorded, and the length of each file in bytes."""
        return {"step": self._state["step"], "sizes": dict(self._state["sizes"]) | self._sizes()}

    def load_state_dict(self, state: dict) -> None:
        """Cut the files back to ``state_dict`` before the next thing is recorded."""
        self._state = {"step": int(state["step"]), "sizes": dict(state["sizes"])}

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _add_summary(self, summary: Summary, step: int) -> None:
        if not self._files:
            self._open()
        self._state["step"] = max(self._state["step"], step)
        self._events.write(Event(summary=summary, step=step, wall_time=time.time()).SerializeToString())

    def _open(self) -> None:
        """Cut back what is there, and begin a new file of events, which tells a running TensorBoard of the cut."""
        events = self._folder / "event"
        events.mkdir(parents=True, exist_ok=True)
        for path in (self._folder / "metrics.jsonl", *events.glob("*tfevents*")):
            _cut(path, self._state["sizes"].get(str(path.relative_to(self._folder).as_posix()), 0))
        second, fraction = divmod(time.time_ns(), 10**9)
        name = f"event/events.out.tfevents.{second}.{fraction:09}.{socket.gethostname()}"
        self._files = {key: _GrowingFile(self._folder / key) for key in ("metrics.jsonl", name)}
        self._events = RecordWriter(self._files[name])
        version = Event(file_version="brain.Event:2", wall_time=time.time())
        purge = Event(session_log=SessionLog(status=SessionLog.START), step=self._state["step"] + 1)
        for event in (version, purge):
            self._events.write(event.SerializeToString())

    def _sizes(self) -> dict[str, int]:
        return {name: file.size for name, file in self._files.items()}


class _GrowingFile:
    """A file that grows. What a full disk does not take waits in memory until there is room."""

    def __init__(self, path: Path):
        self._path, self._file = path, path.open("ab", buffering=0)
        self._waiting, self._is_full = b"", False

    def write(self, data: bytes) -> None:
        self._waiting += data
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self._is_full = False
        except OSError as error:
            if not self._is_full:
                add_log(f"{self._path}: {error.strerror}; what is recorded waits until there is room", "ERROR")
            self._is_full = True

    @property
    def size(self) -> int:
        return self._file.tell() + len(self._waiting)

    def close(self) -> None:
        self.write(b"")
        self._file.close()


def _cut(path: Path, size: int) -> None:
    """Shorten a file to a size; an empty file of events goes altogether."""
    if size == 0 and path.suffix != ".jsonl":
        path.unlink()
    elif path.exists() and path.stat().st_size > size:
        with path.open("rb+") as file:
            file.truncate(size)


class NullMonitor:
    """A monitor for the ranks that write nothing: the same methods, no effect."""

    def add_scalars(self, *args, **kwargs) -> None:
        """Do nothing."""

    def add_image(self, *args, **kwargs) -> None:
        """Do nothing."""

    def add_figure(self, *args, **kwargs) -> None:
        """Do nothing."""

    def state_dict(self) -> dict:
        """Return nothing; rank 0's state is what counts."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def open_monitor(folder: Path) -> Monitor | NullMonitor:
    """Return the experiment's monitor on rank 0 and one that does nothing elsewhere."""
    return Monitor(folder) if get_rank() == 0 else NullMonitor()
