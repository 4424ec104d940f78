"""How far a run is, and what is due between two of its steps: validations, evaluations, saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common.config.schema import ProgressConfig


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

    def after_iteration(self, total: int) -> bool:
        """Note what falls due after an iteration within an epoch, and return whether anything is due."""
        if is_due(self._progress.iter_val, total):
            self.add("validate")
        if is_due(self._progress.iter_save_checkpoint, total):
            self.keep = ["latest", f"iter_{total:06d}"]
        return bool(self.due or self.keep)

    def after_epoch(self, counters: Counters) -> None:
        """Note what falls due after an epoch, including what its last iteration makes due."""
        progress, epoch = self._progress, counters.epoch
        self.after_iteration(counters.total_iterations)
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


def is_due(every: int, count: int) -> bool:
    """Return whether what happens every so many times is due after ``count`` times; never for 0."""
    return every > 0 and count % every == 0
