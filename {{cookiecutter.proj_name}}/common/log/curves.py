"""The curves of a run, as TensorBoard events and as one JSON object per line; the tables of an evaluation."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary as encoders

from common.config.errors import one_line
from common.log.console import GrowingFile, add_log, despite_disk_errors
from common.run.distributed import master_only

_JSON = "metrics.jsonl"
# Other writers' files have the host where the nine digits are.
_EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\.(\d{9})\..*")


class Curves:
    """Records an experiment's scalars, pictures and texts in its ``event/`` and ``metrics.jsonl``; only rank 0 does.

    A checkpoint holds the length of each file, and a resume cuts the files back to it, so that no step appears twice. A
    run that starts anew in the same folder removes them.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.at: int | None = None  # the step under which a trainer's log_text and the like record; None: they do not
        self._step, self._sizes = -1, {}
        self._files: dict[str, GrowingFile] = {}
        self._before: dict | None = None  # the state before the block that has begun, and the names in it
        self._in_block: set[str] | None = None

    @master_only
    def add_scalars(self, split: str, values: Mapping[str, float], epoch: int, step: int) -> None:
        """Record values as ``<split>/<name>`` in one event and one line of JSON, where NaN and infinity are null."""
        scalars = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self._write(Summary(value=scalars), step)
        line = {"split": split, "epoch": epoch, "step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._files[_JSON].write(json.dumps(line).encode() + b"\n")

    @master_only
    def add(self, kind: str, tag: str, value: Any, step: int, *options: Any, file: Path | None = None) -> None:
        """Record a ``text``, ``histogram``, ``figure``, ``image`` or ``audio`` as ``<split>/<name>``.

        ``Trainer.log_text`` and the methods beside it say what each takes. What has another form is skipped with a
        warning. A picture goes to ``file``, relative to the experiment's ``progress/``, as a PNG file too.
        """
        if self._in_block is not None and tag in self._in_block:
            return
        try:
            summary = _ENCODERS[kind](value, *options)
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            add_log(f"{tag}: cannot be recorded as {kind}, {one_line(error)}", "WARNING")
            return
        if self._in_block is not None:
            self._in_block.add(tag)
        summary.value[0].tag = tag
        self._write(summary, step)
        if file is not None:
            path = self._folder / "progress" / file
            with despite_disk_errors():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(summary.value[0].image.encoded_image_string)

    @contextmanager
    def block(self) -> Iterator[None]:
        """Record all that is added inside the ``with``, or nothing: a state taken before its end holds none of it.

        Of the values of one name that are not scalars the first is recorded, such as that of the first batch.
        """
        self._before, self._in_block = self.state_dict(), set()
        yield
        self._before = self._in_block = None

    def state_dict(self) -> dict:
        """Return the last step recorded, and the length of each file in bytes."""
        return self._before or {
            "step": self._step,
            "sizes": self._sizes | {name: file.size for name, file in self._files.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        """Cut the files back to those of ``state_dict``, as soon as there is something to record."""
        self._step, self._sizes = int(state["step"]), dict(state["sizes"])

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _write(self, summary: Summary, step: int) -> None:
        if not self._files:
            self._open()
        self._step = max(self._step, step)
        self._events.write(Event(summary=summary, step=step, wall_time=time.time()).SerializeToString())

    def _open(self) -> None:
        """Cut the old files back, and start a new event file, which tells a running TensorBoard of the cut."""
        now = time.time_ns()
        for path in (self._folder / _JSON, *self._folder.glob("event/*")):
            size, own = self._sizes.get(path.relative_to(self._folder).as_posix(), 0), _EVENTS.fullmatch(path.name)
            if size == 0 and (own or path.name == _JSON):
                path.unlink(missing_ok=True)
            elif size > 0 and path.exists() and size < path.stat().st_size:
                os.truncate(path, size)
            if own:  # TensorBoard reads in the order of names, and the clock may have been set back
                now = max(now, int(own[1] + own[2]) + 1)
        name = f"event/events.out.tfevents.{now // 10**9}.{now % 10**9:09}.{socket.gethostname()}"
        self._files = {key: GrowingFile(self._folder / key) for key in (_JSON, name)}
        self._events = RecordWriter(self._files[name])
        restart = SessionLog(status=SessionLog.START)
        self._events.write(Event(file_version="brain.Event:2", wall_time=time.time()).SerializeToString())
        self._events.write(Event(session_log=restart, step=self._step + 1).SerializeToString())


def _floats(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu().double() if isinstance(value, torch.Tensor) else value, dtype=float)


def _pixels(image: Any) -> torch.Tensor:
    if not isinstance(image, torch.Tensor) or image.ndim != 3 or len(image) not in (1, 3):
        found = tuple(image.shape) if isinstance(image, torch.Tensor) else type(image).__name__
        raise ValueError(f"expected a tensor (3, H, W) or (1, H, W), found {found}")
    return image if image.dtype == torch.uint8 else image.detach().float().clamp(0, 1).mul(255).round().byte()


def _drawn(figure: Any) -> np.ndarray:
    """Return a matplotlib figure as RGB, (H, W, 3), and close it if pyplot keeps it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not isinstance(figure, Figure):
        raise TypeError(f"expected a matplotlib figure, found {type(figure).__name__}")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(figure)
    return np.asarray(canvas.buffer_rgba())[..., :3]


_ENCODERS: dict[str, Callable[..., Summary]] = {
    "text": lambda value: encoders.text("", f"{value}"),
    "histogram": lambda value: encoders.histogram("", _floats(value), bins=64),
    "figure": lambda value: encoders.image("", _drawn(value), dataformats="HWC"),
    "image": lambda value: encoders.image("", _pixels(value), dataformats="CHW"),
    "audio": lambda value, sample_rate: encoders.audio("", _floats(value).clip(-1, 1), sample_rate),
}


def write_tables(folder: Path, summary: dict[str, float], rows: list[dict], find_path: Callable[[int], Any]) -> None:
    """Write ``summary.json`` and ``summary.csv`` with each mean and metric, and ``samples.csv`` with a line a sample.

    ``find_path`` returns the file of the sample of a number, or None.
    """
    for name, value in summary.items():
        add_log(f"eval | {name} {value:.4f}")
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    means = [{"name": name, "value": value} for name, value in summary.items()]
    samples = [row | ({"file": str(path)} if (path := find_path(row["sample"])) else {}) for row in rows]
    for name, table in (("summary.csv", means), ("samples.csv", samples)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in table for key in row)))
            writer.writeheader()
            writer.writerows(table)
