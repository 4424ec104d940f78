"""Training by iterations: the schedule moves with every optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterator

from common.data.batches import on_device, open_pass
from common.engine.base_trainer import BaseTrainer


class IterBasedTrainer(BaseTrainer):
    """Draws from the training set without end, and steps the schedule after each optimizer step.

    An epoch is ``progress.iters_per_epoch`` iterations, or as many as one pass has. The order of events::

        before_train_epoch
        for each iteration:
            before_train_step
            train_step
            after_backward
            optimizer_step
            after_train_step
            log iteration
            scheduler_step
        after_train_epoch
    """

    _endless: Iterator[dict] | None = None

    @property
    def schedule_length(self) -> int:
        """Steps of the schedule over the whole run: optimizer steps."""
        return self.config.progress.epoch * math.ceil(self.iterations_per_epoch / self.config.trainer.accumulate)

    def _open_batches(self) -> Iterator[dict]:
        """Go on where the last epoch stopped, across the passes: the position follows from the number of iterations."""
        if self._endless is None:
            self._endless = on_device(self._passes(), self.device)
        return self._endless

    def _passes(self) -> Iterator[dict]:
        done, offset = divmod(self.total_iterations, len(self.train_loader))
        while True:
            yield from open_pass(self.train_loader, done, offset)
            done, offset = done + 1, 0

    def _batch_position(self, iteration: int) -> int:
        return self.total_iterations - self.iteration + iteration

    def _at_step_end(self) -> None:
        self._step_schedulers()
