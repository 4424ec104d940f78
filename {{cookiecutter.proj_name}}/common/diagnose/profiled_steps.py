"""Iterations under torch's profiler, ``debug.profile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from common.config.errors import UserError
from common.diagnose.profiling import StepProfile
from common.log.console import add_log

if TYPE_CHECKING:
    from common.engine.trainer_parts import TrainerParts


class ProfiledSteps:
    """Runs a trainer's iterations, and watches those from ``first`` to before ``last``, counted over the whole run.

    Args:
        trainer: The trainer; its steps are wrapped while it is watched.
        iterate: What runs one iteration.
        first: The first iteration that is watched.
        last: The one before which it ends.

    Raises:
        UserError: The run ends before the first.
    """

    def __init__(self, trainer: TrainerParts, iterate: Callable[[int, int, dict], None], first: int, last: int):
        total = trainer.config.progress.epoch * trainer.iterations_per_epoch
        if first >= total:
            raise UserError(f"debug.profile: the run has {total} iterations, and none from {first} on")
        self._trainer, self._iterate, self._first, self._last = trainer, iterate, first, min(last, total)
        self._profile: StepProfile | None = None
        self._waited = 0.0

    def __call__(self, epoch: int, iteration: int, data_dict: dict) -> None:
        """Run one iteration."""
        done = self._trainer.total_iterations
        if done == self._first:
            self._begin()
        elif self._profile:  # the clock of waiting begins anew with each logged iteration
            waited = self._trainer._progress.waited
            self._profile.add("data", waited - self._waited if waited >= self._waited else waited)
        self._iterate(epoch, iteration, data_dict)
        self._waited = self._trainer._progress.waited
        if done + 1 == self._last and self._profile:
            self._end()

    def _begin(self) -> None:
        trainer = self._trainer
        self._profile = profile = StepProfile(trainer.session.folder / "profile")
        self._step, trainer._train_step = trainer._train_step, profile.timed("forward", trainer._train_step)
        for updater in trainer._updaters.values():
            updater.backward = profile.timed("backward", updater.backward)
            updater.step = profile.timed("optimizer", updater.step)
        profile.start()

    def _end(self) -> None:
        seconds = self._profile.stop("engine")
        self._profile, self._trainer._train_step = None, self._step
        for updater in self._trainer._updaters.values():
            del updater.backward, updater.step
        whole, count = sum(seconds.values()), self._last - self._first
        parts = ("data", "forward", "backward", "optimizer", "engine")
        shares = ", ".join(f"{part} {seconds.get(part, 0.0) / whole:.0%}" for part in parts)
        place = self._trainer.session.folder / "profile"
        add_log(f"profile | {count} iterations, {1e3 * whole / count:.3f} ms each: {shares} | written to {place}")
