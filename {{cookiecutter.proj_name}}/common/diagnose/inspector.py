"""What ``debug`` asks for, around a trainer's iterations: gradients, the batch that failed, where the time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from common.config.errors import RunError, UserError
from common.diagnose.gradients import check_gradients, dump_batch, gradient_table
from common.diagnose.non_finite import NonFiniteOrigin
from common.diagnose.profiling import StepProfile
from common.engine.agenda import is_due
from common.log.console import add_log
from common.run.distributed import get_rank

if TYPE_CHECKING:
    from common.engine.trainer import Trainer


class Inspector:
    """Watches a trainer; it calls these methods within an iteration.

    Args:
        trainer: The trainer, prepared.

    Raises:
        UserError: The run ends before the first iteration to profile.
    """

    def __init__(self, trainer: Trainer):
        self._trainer, self._debug = trainer, trainer.config.debug
        self._profile: StepProfile | None = None
        self._origin: NonFiniteOrigin | None = None
        # torch cannot look into divided layers' gradients there; check_gradients does afterwards.
        self._checks_backward = trainer.config.dist.strategy != "tp" and trainer.config.dist.tp_size is None
        self._waited = 0.0
        total = trainer.config.progress.epoch * trainer.iterations_per_epoch
        self._first, self._last = (self._debug.profile or [total, total]) if get_rank() == 0 else (total, total)
        if self._debug.profile and self._debug.profile[0] >= total:
            raise UserError(f"debug.profile: the run has {total} iterations, and none from {self._debug.profile[0]} on")
        self._last = min(self._last, total)

    def run_iteration(self, epoch: int, iteration: int, data_dict: dict) -> None:
        """Run one iteration of the trainer, under the profiler and with a dump of its batch if it fails."""
        done = self._trainer.total_iterations
        if done == self._first:
            self._profile = StepProfile(self._trainer.session.folder / "profile")
            self._profile.start()
        elif self._profile:  # the clock restarts with each logged iteration
            waited = self._trainer.progress.waited
            self._profile.add("data", waited - self._waited if waited >= self._waited else waited)
        self._switch("forward")
        if self._debug.debug_mode:
            self._origin = NonFiniteOrigin()
            with torch.autograd.set_detect_anomaly(True, self._checks_backward), self._origin:
                self._run_or_dump(epoch, iteration, data_dict)
        else:
            self._run_or_dump(epoch, iteration, data_dict)
        self._waited = self._trainer.progress.waited
        if self._profile and done + 1 == self._last:
            self._report(self._profile)

    def after_forward(self, epoch: int, iteration: int, result_dict: dict) -> None:
        """After the training step: in debug mode, look at its loss, for which the backward pass would be blamed.

        Raises:
            RunError: The loss is not finite; it names the operation that this comes from.
        """
        self._switch("backward")
        if self._origin:
            self._origin.is_watching = False
            losses = result_dict.get("loss")
            for loss in losses.values() if isinstance(losses, dict) else [losses]:
                if isinstance(loss, torch.Tensor) and not loss.isfinite().all():
                    raise RunError(f"epoch {epoch} iteration {iteration + 1}: {self._origin.explain(loss)}")

    def after_backward(self, epoch: int, iteration: int) -> None:
        """After the backward pass: log the gradients, and check them.

        Raises:
            FloatingPointError: One is not finite. In fp16 an overflow is part of the method: that step is skipped.
        """
        self._switch("optimizer")
        trainer, every = self._trainer, self._trainer.config.progress.iter_loss
        parameters = [(name, p) for model in trainer.forms.bare.values() for name, p in model.named_parameters()]
        if self._debug.print_all_grad and is_due(every, trainer.count(ahead=1)):
            add_log(f"epoch {epoch} iteration {iteration + 1}\n{gradient_table(parameters)}")
        if self._debug.debug_mode and trainer.config.trainer.precision != "fp16":
            check_gradients(parameters)

    def after_step(self) -> None:
        """After the optimizer's step."""
        self._switch(None)

    def _run_or_dump(self, epoch: int, iteration: int, data_dict: dict) -> None:
        """Run one iteration; in debug mode, write its batch and the weights to a file if it fails or is skipped."""
        trainer, has_failed = self._trainer, True
        try:
            trainer.run_iteration(epoch, iteration, data_dict)
            for step in trainer.steps.values() if self._debug.debug_mode else ():
                step.settle()
            has_failed = trainer.stop.skipped_at == (epoch, iteration)
        finally:
            if has_failed and self._debug.debug_mode:
                weights = {name: model.state_dict() for name, model in trainer.forms.bare.items()}
                path = dump_batch(trainer.session.folder, epoch, iteration, data_dict, weights)
                place = f"epoch {epoch} iteration {iteration + 1}"
                add_log(f"{place} failed; its batch and the weights are in {path}", "ERROR")

    def _switch(self, part: str | None) -> None:
        if self._profile:
            self._profile.switch(part)

    def _report(self, profile: StepProfile) -> None:
        """End the profile, and log the share of each part."""
        seconds, self._profile = profile.stop("engine"), None
        whole, count = sum(seconds.values()), self._last - self._first
        parts = ("data", "forward", "backward", "optimizer", "engine")
        shares = ", ".join(f"{part} {seconds.get(part, 0.0) / whole:.0%}" for part in parts)
        place = self._trainer.session.folder / "profile"
        add_log(f"profile | {count} iterations, {1e3 * whole / count:.3f} ms each: {shares} | written to {place}")
