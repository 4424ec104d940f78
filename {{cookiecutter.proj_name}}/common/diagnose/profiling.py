"""Where the time goes: of a few lines, and of whole iterations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from common.log.console import add_log


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
    """torch's profiler over some iterations, with the share that each part of them takes.

    The device is waited for at the end of each part, and the profiler costs time with each operation: the shares are
    those under the profiler, and an iteration is faster without.

    Args:
        folder: Where ``trace.json`` (for chrome://tracing or Perfetto) and ``operations.txt`` are written.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._seconds: dict[str, float] = {}
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self._profiler = profile(activities=activities, acc_events=True)

    def start(self) -> None:
        """Begin."""
        wait_for_device()
        self._profiler.start()
        self._began = time.perf_counter()

    def timed(self, part: str, function: Callable) -> Callable:
        """Return the function as one whose time counts for a part."""

        def run(*arguments, **keywords):
            began = time.perf_counter()
            with record_function(part):
                result = function(*arguments, **keywords)
                wait_for_device()
            self.add(part, time.perf_counter() - began)
            return result

        return run

    def add(self, part: str, seconds: float) -> None:
        """Count seconds for a part."""
        self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def stop(self, rest: str) -> dict[str, float]:
        """End, write the files, and return the seconds of each part; what is left of the whole is ``rest``."""
        wait_for_device()
        whole = time.perf_counter() - self._began
        self._profiler.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._profiler.export_chrome_trace(str(self._folder / "trace.json"))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = self._profiler.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=60)
        (self._folder / "operations.txt").write_text(table, encoding="utf-8")
        return {**self._seconds, rest: max(0.0, whole - sum(self._seconds.values()))}
