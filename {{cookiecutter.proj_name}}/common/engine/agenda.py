"""What is done between two steps, and when: validations, evaluations, saves."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


class Task(ABC):
    """Something to do between two steps, such as a validation; checkpoints know it by its name."""

    name: str

    @abstractmethod
    def run(self) -> None:
        """Run to the end; one that is cut begins again when the run resumes."""


class Agenda:
    """The tasks that are due before the next iteration, and then the checkpoints to save and to delete.

    It is part of the state: a run that is cut within a validation begins that validation again when it resumes.
    """

    def __init__(self, progress: ProgressConfig):
        self.tasks: dict[str, Task] = {}  # those that can fall due, by their names
        self.due: list[Task] = []
        self.keep: list[str] = []  # names to save the state under
        self.drop: list[str] = []  # names of checkpoints to delete once that save is on the disk
        self.counts_iterations = progress.iter_val > 0 or progress.iter_save_checkpoint > 0
        self._progress = progress

    def add(self, name: str) -> None:
        """Let a task fall due, if it is known and not due already."""
        if name in self.tasks and self.tasks[name] not in self.due:
            self.due.append(self.tasks[name])

    def after_iteration(self, total: int) -> bool:
        """Note what falls due after an iteration within an epoch, and return whether anything is due."""
        if is_due(self._progress.iter_val, total):
            self.add("validate")
        if is_due(self._progress.iter_save_checkpoint, total):
            self.keep = ["latest", f"iter_{total:06d}"]
        return bool(self.due or self.keep)

    def after_epoch(self, counters: Counters) -> None:
        """Note what falls due after an epoch, including what its last iteration makes due."""
        progress, epoch, total = self._progress, counters.epoch, counters.total_iterations
        if is_due(progress.epoch_val, epoch) or is_due(progress.iter_val, total):
            self.add("validate")
        if is_due(progress.epoch_eval, epoch):
            self.add("evaluate")
        self.keep = ["latest"]
        if is_due(progress.epoch_save_checkpoint, epoch):
            self.keep.append(f"epoch_{epoch:03d}")
        if is_due(progress.iter_save_checkpoint, total):
            self.keep.append(f"iter_{total:06d}")

    def run_tasks(self) -> None:
        """Run the tasks that are due; each counts as due until it has ended."""
        while self.due:
            self.due[0].run()
            del self.due[0]

    def take_names(self) -> tuple[list[str], list[str]]:
        """Return the names to save under and those to delete, and forget them."""
        keep, drop = self.keep, self.drop
        self.keep, self.drop = [], []
        return list(dict.fromkeys(["latest", *keep])) if keep else [], drop

    def state_dict(self) -> dict[str, Any]:
        """Return the names of all that is due."""
        return {"due": [task.name for task in self.due], "keep": self.keep, "drop": self.drop}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what was due."""
        self.due = []
        for name in state["due"]:
            self.add(name)
        self.keep, self.drop = list(state["keep"]), list(state["drop"])


def is_due(every: int, count: int) -> bool:
    """Return whether what happens every so many times is due after ``count`` times; never for 0."""
    return every > 0 and count % every == 0
