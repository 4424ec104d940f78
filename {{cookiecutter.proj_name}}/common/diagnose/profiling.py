"""Where the time goes: of a few lines, and of whole iterations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from common.log.console import add_log, despite_disk_errors


def wait_for_device() -> None:
    """Wait until a GPU has done all it was given; a CPU is never behind."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def profile_runtime(name: str) -> Iterator[None]:
    """Log how long the lines inside take, on a GPU until they are done there, and name them in a trace.

    ::

        with profile_runtime("matching"):
            pairs = match(features)
    """
    wait_for_device()
    began = time.perf_counter()
    with record_function(name):
        yield
        wait_for_device()
    add_log(f"{name} took {1e3 * (time.perf_counter() - began):.3f} ms")


class StepProfile:
    """torch's profiler over some iterations, with the time that each part of them takes.

    The device is waited for at the end of each part, and the profiler makes every operation slower: the shares are
    those under the profiler, and an iteration is faster without it.

    Args:
        folder: Where ``trace.json`` (for chrome://tracing or Perfetto) and ``operations.txt`` are written.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._seconds: dict[str, float] = {}
        self._part: str | None = None
        self._span: record_function | None = None
        self._began = self._part_began = 0.0
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._profiler = profile(activities=activities, acc_events=True)

    def start(self) -> None:
        """Start the profiler."""
        wait_for_device()
        self._profiler.start()
        self._began = time.perf_counter()

    def switch(self, part: str | None) -> None:
        """End the part that is running, and begin the next one, if any."""
        if self._part and self._span:
            wait_for_device()
            self._span.__exit__(None, None, None)
            self.add(self._part, time.perf_counter() - self._part_began)
        self._part, self._span = part, record_function(part) if part else None
        if self._span:
            self._span.__enter__()
            self._part_began = time.perf_counter()

    def add(self, part: str, seconds: float) -> None:
        """Count seconds for a part."""
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def stop(self, rest: str) -> dict[str, float]:
        """Stop, write the files, and return the seconds of each part; what is left of the whole is ``rest``."""
        wait_for_device()
        whole = time.perf_counter() - self._began
        self._profiler.stop()
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = self._profiler.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60)
        with despite_disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._profiler.export_chrome_trace(str(self._folder / "trace.json"))
            (self._folder / "operations.txt").write_text(table, encoding="utf-8")
        return {**self._seconds, rest: max(0.0, whole - sum(self._seconds.values()))}
