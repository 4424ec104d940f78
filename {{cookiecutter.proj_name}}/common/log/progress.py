"""How a run shows that it is alive: a bar on a terminal, and speed, waiting time and time to go for the log."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from tqdm import tqdm

from common.run.distributed import get_rank


class Progress:
    """A progress bar over all iterations of a run, and a clock. The bar shows on rank 0 and on a terminal only.

    Args:
        total: Iterations of the whole run.
        done: Those that lie behind already.
    """

    def __init__(self, total: int, done: int = 0):
        hidden = get_rank() != 0 or not sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, disable=hidden, dynamic_ncols=True, unit="it", leave=False)
        self._total, self._speed, self._share = total, 0.0, 0.0
        self.update = None if hidden else self._bar.update
        self.restart_clock(done)

    def measure(self, done: int) -> dict[str, float]:
        """Return ``iterations_per_second`` and ``data_wait``, the share of time spent waiting for data.

        Args:
            done: Iterations that lie behind now.
        """
        elapsed = max(time.perf_counter() - self._marked_at, 1e-9)
        self._speed, self._share = (done - self._marked) / elapsed, self.waited / elapsed
        self.restart_clock(done)
        return {"iterations_per_second": self._speed, "data_wait": self._share}

    def restart_clock(self, done: int) -> None:
        """Begin the next measurement here: what lies before, such as a validation, does not count."""
        self._marked_at, self._marked, self.waited = time.perf_counter(), done, 0.0

    def describe(self) -> str:
        """Return what was last measured, and the time to go at that speed: ``412 it/s, data 4%, eta 0:01:05``."""
        left = timedelta(seconds=round((self._total - self._marked) / max(self._speed, 1e-9)))
        return f"{self._speed:.3g} it/s, data {self._share:.0%}, eta {left}"

    def show(self, text: str) -> None:
        """Show a text at the end of the bar."""
        self._bar.set_postfix_str(text, refresh=False)

    def close(self) -> None:
        """Take the bar off the terminal."""
        self._bar.close()
