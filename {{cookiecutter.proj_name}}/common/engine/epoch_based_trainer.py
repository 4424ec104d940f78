"""Training by epochs: the schedule moves with every epoch."""

from __future__ import annotations

from collections.abc import Iterator

from common.data.batches import on_device, open_pass
from common.engine.base_trainer import BaseTrainer


class EpochBasedTrainer(BaseTrainer):
    """Runs over the training set once an epoch and steps the schedule after it.

    The order of events::

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

    @property
    def schedule_length(self) -> int:
        """Steps of the schedule over the whole run: epochs."""
        return self.config.progress.epoch

    def _open_batches(self) -> Iterator[dict]:
        return on_device(open_pass(self.train_loader, self.epoch, self.iteration), self.device)

    def _batch_position(self, iteration: int) -> int:
        return iteration

    def _at_epoch_end(self) -> None:
        self._step_schedulers()
