"""The training set's batches from any iteration on, and what each of them counts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from common.data.batches import find_sizes_at, find_transform, on_device, open_pass
from common.run.distributed import get_data_size


class TrainingBatches:
    """The batches of epoch after epoch.

    By epochs, each epoch is one pass over the loader. By iterations, an epoch goes on where the last one stopped: the
    position in the passes follows from the number of iterations made.

    Args:
        loader: The loader of the training set.
        by_epoch: Whether an epoch is one pass.
        per_epoch: Iterations an epoch; None: as many as the loader has batches.
        accumulate: Batches whose gradients make one optimizer step.
        device: Where the batches go.
    """

    def __init__(self, loader: DataLoader, by_epoch: bool, per_epoch: int | None, accumulate: int, device: torch.device):
        self.per_epoch = per_epoch or len(loader)
        self.transform = find_transform(loader)
        self._loader, self._by_epoch, self._accumulate, self._device = loader, by_epoch, accumulate, device
        self._sizes_at, self._data_size = find_sizes_at(loader), get_data_size()
        self._endless: Iterator[dict] | None = None
        self._first = 0  # the position in the passes of this epoch's first batch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch; an accumulation window never reaches into the next epoch."""
        return math.ceil(self.per_epoch / self._accumulate)

    def open(self, epoch: int, iteration: int, total: int) -> Iterator[dict]:
        """Return the batches of an epoch from an iteration on, on the device, after ``total`` iterations of the run."""
        if self._by_epoch:
            return on_device(open_pass(self._loader, epoch, iteration), self._device)
        self._first = total - iteration
        if self._endless is None:
            self._endless = on_device(self._passes(total), self._device)
        return self._endless

    def window(self, iteration: int) -> tuple[bool, float | None, int]:
        """Return whether a batch closes its accumulation window, the weight of its loss, and its samples on this rank.

        The weight is the batch's share of the window's samples on all ranks, times the number of ranks, since these
        average their gradients; None for 1. A loader that does not tell its batches' sizes counts them alike.
        """
        size, whole = self._sizes(iteration)
        closes_window = True
        if self._accumulate > 1:
            start = iteration - iteration % self._accumulate
            stop = min(start + self._accumulate, self.per_epoch)
            closes_window, whole = iteration + 1 == stop, sum(self._sizes(i)[1] for i in range(start, stop))
        weight = size * self._data_size / whole
        return closes_window, None if weight == 1 else weight, size

    def _sizes(self, iteration: int) -> tuple[int, int]:
        """Return how many samples a batch of this epoch holds, on this rank and on all."""
        return self._sizes_at(self._first + iteration) if self._sizes_at else (1, self._data_size)

    def _passes(self, done: int) -> Iterator[dict]:
        epoch, start = divmod(done, len(self._loader))
        while True:
            yield from open_pass(self._loader, epoch, start)
            epoch, start = epoch + 1, 0
