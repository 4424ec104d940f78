"""The progress of a run: a bar on a terminal; speed, waiting time and remaining time for the log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from tqdm import tqdm

from common.run.distributed import get_rank


class Progress:
    """A progress bar over all iterations of a run, and a clock. The bar is shown on a terminal by rank 0 only.

    Args:
        total: Iterations of the whole run.
        done: Iterations done already.
    """

    def __init__(self, total: int, done: int = 0):
        hidden = get_rank() != 0 or not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, disable=hidden, dynamic_ncols=True, unit="it", leave=False)
        self._total, self._speed, self._share = total, 0.0, 0.0
        self.update = None if hidden else self._bar.update
        self.restart_clock(done)

    def measure(self, done: int) -> dict[str, float]:
        """Return ``iterations_per_second`` since the last measurement, and ``data_wait``, the share of time waited."""
        elapsed = max(time.perf_counter() - self._marked_at, 1e-9)
        self._speed, self._share = (done - self._marked) / elapsed, self.waited / elapsed
        self.restart_clock(done)
        return {"iterations_per_second": self._speed, "data_wait": self._share}

    def restart_clock(self, done: int) -> None:
        """Start the next measurement here: the time before, as of a validation, does not count."""
        self._marked_at, self._marked, self.waited = time.perf_counter(), done, 0.0

    def describe(self) -> str:
        """Return the last measurement and the remaining time: ``412 it/s, data 4%, eta 0:01:05``."""
        left = timedelta(seconds=round((self._total - self._marked) / max(self._speed, 1e-9)))
        return f"{self._speed:.3g} it/s, data {self._share:.0%}, eta {left}"

    def show(self, text: str) -> None:
        """Show a text at the end of the bar."""
        self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
