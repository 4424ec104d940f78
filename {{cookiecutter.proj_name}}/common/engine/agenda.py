"""What is done between two steps: validations, evaluations, saves; and the end of a run by a signal or a failure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from common.config.errors import RunError
from common.config.schema import Config, ProgressConfig
from common.log.console import add_log
from common.optim.step import OptimizerStep, Place
from common.run.distributed import gather, get_world_size
from common.run.signals import Interrupted, StopRequest

_AGREE_EVERY = 1.0  # seconds: each time costs a message
_MAX_SKIPPED = 100  # steps in a row


@dataclass
class Counters:
    """How far a run is: the epoch and the iteration within it that come next, and the iterations made so far."""

    epoch: int = 0
    iteration: int = 0
    total_iterations: int = 0

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts."""
        vars(self).update({name: state[name] for name in vars(self)})


class Agenda:
    """The tasks that are due before the next iteration, and then the checkpoints to save and to delete.

    It is part of the state: a run that is cut within a validation begins that validation again when it resumes.
    """

    def __init__(self, progress: ProgressConfig):
        self.due: list[str] = []  # of the tasks "validate" and "evaluate"
        self.keep: list[str] = []  # names to save the state under
        self.drop: list[str] = []  # names of checkpoints to delete once that save is on the disk
        self.counts_iterations = progress.iter_val > 0 or progress.iter_save_checkpoint > 0
        self._progress = progress

    def add(self, task: str) -> None:
        """Let a task fall due, unless it is already."""
        if task not in self.due:
            self.due.append(task)

    def after_iteration(self, total: int, count: int | None) -> bool:
        """Note what falls due after an iteration within an epoch, and return whether anything is due."""
        if is_due(self._progress.iter_val, count):
            self.add("validate")
        if is_due(self._progress.iter_save_checkpoint, count):
            self.keep = ["latest", f"iter_{total:06d}"]
        return bool(self.due or self.keep)

    def after_epoch(self, counters: Counters, count: int | None) -> None:
        """Note what falls due after an epoch, including what its last iteration makes due."""
        progress, epoch = self._progress, counters.epoch
        self.after_iteration(counters.total_iterations, count)
        if is_due(progress.epoch_val, epoch):
            self.add("validate")
        if is_due(progress.epoch_eval, epoch):
            self.add("evaluate")
        self.keep = self.keep or ["latest"]
        if is_due(progress.epoch_save_checkpoint, epoch):
            self.keep.append(f"epoch_{epoch:03d}")

    def state_dict(self) -> dict[str, list[str]]:
        """Return the names of all that is due."""
        return {"due": list(self.due), "keep": self.keep, "drop": self.drop}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what was due."""
        self.due, self.keep, self.drop = (list(state[name]) for name in ("due", "keep", "drop"))


def is_due(every: int, count: int | None) -> bool:
    """Return whether what happens every so many times is due after ``count`` times; never for 0, or a count of None."""
    return every > 0 and count is not None and count % every == 0


class StopControl:
    """Stops all ranks at the same iteration, and only where the state is sound.

    Signals and skipped steps only leave a note. About once a second the ranks tell each other their notes; then all of
    them raise the same exception, or save.
    """

    def __init__(self, config: Config):
        self.request = StopRequest()
        self.failure: RunError | None = None
        self.skipped_at: Place | None = None  # of the last skipped step
        self.is_sound = True  # whether the state may be saved as it is: false within a step
        self._trainer, self._save_time = config.trainer, config.progress.save_time
        self._is_alone = get_world_size() == 1
        self.may_end = not self._is_alone  # whether an evaluation is to call check_within
        self._interval = 1  # iterations between two agreements
        self.start(0)

    def start(self, total: int) -> None:
        """Begin to count iterations and seconds; the ranks agree next after ``agree_at`` iterations."""
        self._last = self.agree_at = total
        self._last_at = self.saved_at = time.monotonic()

    def handle_signal(self, number: int) -> None:
        """Note a signal; a single process obeys it after this iteration."""
        self.request.note(number)
        if self._is_alone:
            self.agree_at, self.may_end = 0, True

    def agree(self, total: int, save_has_failed: bool) -> tuple[bool, bool]:
        """Return whether a save has failed on any rank, and whether the next one is due. Collective.

        Raises the failure of a step, or Interrupted for a signal, on all ranks.
        """
        now = time.monotonic()
        speed = (total - self._last) / max(now - self._last_at, 1e-9)
        interval = max(1, min(int(speed * _AGREE_EVERY), 2 * self._interval))
        is_overdue = 0 < self._save_time < now - self.saved_at
        notes = gather((self.request.number, is_overdue, save_has_failed, interval))
        numbers, overdue, failed, intervals = zip(*notes, strict=True)
        self._interval, self._last, self._last_at = intervals[0], total, now
        self.agree_at = total + self._interval
        if self.failure:
            raise self.failure
        # A signal may have come in the meantime, whose wish to agree at once has just been overwritten.
        _raise_first([self.request.number] if self._is_alone else numbers)
        return any(failed), any(overdue)

    def check_within(self, have_same_batches: bool, iteration: int) -> None:
        """Raise Interrupted within an evaluation; several ranks only where all have as many batches."""
        if self._is_alone or (have_same_batches and iteration % self._interval == 0):
            _raise_first(gather(self.request.number))

    def may_save(self, error: BaseException) -> bool:
        """Return whether the state is sound and all ranks leave together by this error."""
        return self.is_sound and (self._is_alone or error is self.failure or isinstance(error, Interrupted))

    def note_skipped(self, steps: Mapping[str, OptimizerStep], place: Place, losses: list[torch.Tensor]) -> None:
        """Log a step that was skipped for a value that is not finite; end the run if configured. Collective.

        In fp16 an overflow is part of the method, as long as the loss itself is finite.
        """
        self.skipped_at = epoch, iteration = place
        in_a_row = max(step.skipped_in_a_row for step in steps.values())
        bad_loss = any(gather(not all(bool(loss.isfinite().all()) for loss in losses)))
        if self._trainer.precision == "fp16" and not bad_loss and in_a_row < _MAX_SKIPPED:
            return
        what = "the loss" if bad_loss else "a gradient"
        text = f"epoch {epoch} iteration {iteration + 1}: {what} of this batch is not finite, so the step is skipped"
        hint = "--debug.debug_mode true finds the operation"
        if in_a_row >= _MAX_SKIPPED:
            self.failure = RunError(f"{text}, for the {in_a_row}th time in a row; {hint}")
        elif self._trainer.non_finite == "stop":
            self.failure = RunError(f"{text}; {hint}, --trainer.non_finite skip leaves such batches out")
        else:
            add_log(f"{text}; {hint}", "WARNING")
        self.agree_at = 0 if self.failure else self.agree_at


def _raise_first(numbers: Iterable[int | None]) -> None:
    number = next(filter(None, numbers), None)
    if number is not None:
        raise Interrupted(number)
