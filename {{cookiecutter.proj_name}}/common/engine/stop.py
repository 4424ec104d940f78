"""When a run stops before its end, or saves: signals, failures and the clock, agreed on by all ranks."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch.utils.data import DataLoader

from common.config.errors import RunError
from common.config.schema import Config
from common.data.batches import find_sizes_at
from common.log.console import add_log
from common.run.distributed import gather, get_world_size
from common.run.signals import Interrupted, StopRequest

_AGREE_EVERY = 1.0  # seconds: each time costs a message
_MAX_SKIPPED = 100  # steps in a row


class StopControl:
    """Stops all ranks at the same iteration, and only where the state is sound.

    Signals and skipped steps only leave a note. About once a second the ranks tell each other their notes; then all of
    them raise the same exception, or save.
    """

    def __init__(self, config: Config):
        self.request = StopRequest()
        self.failure: RunError | None = None
        self.skipped_at: tuple[int, int] | None = None  # epoch and iteration of the last skipped step
        self.is_sound = True  # whether the state may be saved as it is: false within a step
        self._trainer, self._save_time = config.trainer, config.progress.save_time
        self._is_alone = get_world_size() == 1
        self._interval = 1  # iterations between two agreements
        self.start(0)

    def start(self, total: int) -> None:
        """Begin to count iterations and seconds; the ranks agree next after ``agree_at`` iterations."""
        self._last = self.agree_at = total
        self._last_at = self._saved_at = time.monotonic()

    def handle_signal(self, number: int) -> None:
        """Note a signal; a single process obeys it after this iteration."""
        self.request.note(number)
        if self._is_alone:
            self.agree_at = 0

    def note_save(self) -> None:
        """Note that the state is saved."""
        self._saved_at = time.monotonic()

    def agree(self, total: int, save_has_failed: bool) -> tuple[bool, bool]:
        """Return whether a save has failed on any rank, and whether the next one is due. Collective.

        Raises the failure of a step, or Interrupted for a signal, on all ranks.
        """
        now = time.monotonic()
        speed = (total - self._last) / max(now - self._last_at, 1e-9)
        interval = max(1, min(int(speed * _AGREE_EVERY), 2 * self._interval))
        is_overdue = 0 < self._save_time < now - self._saved_at
        notes = gather((self.request.number, is_overdue, save_has_failed, interval))
        numbers, overdue, failed, intervals = zip(*notes, strict=True)
        self._interval, self._last, self._last_at = intervals[0], total, now
        self.agree_at = total + self._interval
        if self.failure:
            raise self.failure
        # A signal may have come in the meantime, whose wish to agree at once has just been overwritten.
        _raise_first([self.request.number] if self._is_alone else numbers)
        return any(failed), any(overdue)

    def check_within(self, loader: DataLoader, iteration: int) -> None:
        """Raise Interrupted within an evaluation; several ranks do so where all have the same number of batches."""
        if self._is_alone:
            _raise_first([self.request.number])
        elif find_sizes_at(loader) is not None and iteration % self._interval == 0:
            _raise_first(gather(self.request.number))

    def may_save(self, error: BaseException) -> bool:
        """Return whether the state is sound and all ranks leave together by this error."""
        return self.is_sound and (self._is_alone or error is self.failure or isinstance(error, Interrupted))

    def note_skipped(self, place: tuple[int, int], losses: list[torch.Tensor], in_a_row: int) -> None:
        """Log a step that was skipped for a value that is not finite; end the run if configured. Collective.

        In fp16 an overflow is part of the method, as long as the loss itself is finite.
        """
        self.skipped_at = epoch, iteration = place
        bad_loss = any(gather(not all(bool(loss.isfinite().all()) for loss in losses)))
        if self._trainer.precision == "fp16" and not bad_loss and in_a_row < _MAX_SKIPPED:
            return
        what = "the loss" if bad_loss else "a gradient"
        text = f"epoch {epoch} iteration {iteration + 1}: {what} of this batch is not finite, so the step is skipped"
        hint = "--debug.debug_mode true finds the operation"
        if in_a_row >= _MAX_SKIPPED:
            self._fail(f"{text}, for the {in_a_row}th time in a row; {hint}")
        elif self._trainer.non_finite == "stop":
            self._fail(f"{text}; {hint}, --trainer.non_finite skip leaves such batches out")
        else:
            add_log(f"{text}; {hint}", "WARNING")

    def _fail(self, text: str) -> None:
        self.failure, self.agree_at = RunError(text), 0


def _raise_first(numbers: Iterable[int | None]) -> None:
    number = next(filter(None, numbers), None)
    if number is not None:
        raise Interrupted(number)
