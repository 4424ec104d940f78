"""The passes over a loader, the engine's or any other, and their batches on the way to the device."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from common.config.errors import UserError
from common.config.registry import find_room
from common.data.loader import find_sizes_at, length_of, on_device, start_pass
from common.run.distributed import get_data_size
from common.run.strategy import move_to


def starts_anywhere(loader: Any) -> bool:
    """Return whether a pass over a loader can start at any batch, as those of ``make_loader`` can."""
    return hasattr(getattr(loader, "batch_sampler", None), "set_position")


def open_pass(loader: Any, epoch: int, start: int = 0) -> Iterator[dict]:
    """Return the batches of one pass over any loader, from number ``start`` on."""
    if starts_anywhere(loader):
        loader.batch_sampler.set_position(epoch, start)
        return iter(loader)
    set_epoch(loader, epoch)
    batches = start_pass(loader)
    for _ in range(start):
        next(batches, None)
    return batches


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the epoch to what of a loader asks for it, such as torch's ``DistributedSampler``."""
    for part in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


class TrainingBatches:
    """The batches of epoch after epoch on the device; the gradients of ``accumulate`` batches make an optimizer step.

    By epochs, each epoch is one pass over the loader. By iterations, an epoch resumes where the last one stopped: the
    position in the passes follows from the number of iterations made.
    """

    def __init__(self, loader: Any, by_epoch: bool, per_epoch: int | None, accumulate: int, device: torch.device):
        self._is_own = starts_anywhere(loader)
        # A stream goes on where the last epoch left it, and begins anew where it ends.
        self._is_endless = not by_epoch or getattr(loader, "is_endless", False)
        self._length = length_of(loader)
        if not (per_epoch or self._length):
            raise UserError("dataset.train: its loader has no length; set progress.iters_per_epoch")
        self.loader, self.by_epoch, self.per_epoch = loader, by_epoch, per_epoch or self._length or 0
        self.transform = getattr(loader, "transform_batch", None)
        # Optimizer steps an epoch; an accumulation window never reaches into the next epoch.
        self.steps_per_epoch = math.ceil(self.per_epoch / accumulate)
        self._accumulate, self._device, self._data_size = accumulate, device, get_data_size()
        # A loader that does not tell its batches' sizes counts them alike.
        self._sizes_at = find_sizes_at(loader) or (lambda batch: (1, self._data_size))
        room = None if self._is_own else find_room("loading.foreign")
        is_whole = not by_epoch or self.per_epoch == self._length
        self.foreign: Any = room and room.find_passes(loader, is_whole)  # what a resume needs of another loader
        self._endless: Iterator[dict] | None = None
        self._first = 0  # the position in the passes of this epoch's first batch

    def open(self, epoch: int, iteration: int, total: int) -> Iterator[dict]:
        """Return the batches of an epoch from an iteration on, after ``total`` iterations of the run."""
        if not self._is_endless:
            return self._on_device(self._open_pass(epoch, iteration))
        self._first = total - iteration
        if self._endless is None:
            self._endless = self._on_device(self._passes(total))
        return self._endless

    def _open_pass(self, epoch: int, start: int) -> Iterator[dict]:
        if self._is_own:
            return open_pass(self.loader, epoch, start)
        batches = open_pass(self.loader, epoch, start) if self.foreign is None else self.foreign.open(epoch, start)
        # Not to the very end, as by epochs: there some samplers draw a random number more.
        return islice(batches, self._length and self._length - start)

    def _on_device(self, batches: Iterable[dict]) -> Iterator[dict]:
        if not self._is_own:  # a batch read ahead would draw its random numbers too early
            return (move_to(batch, self._device) for batch in batches)
        return on_device(batches, self._device)

    def _passes(self, done: int) -> Iterator[dict]:
        epoch, start = divmod(done, self._length or sys.maxsize)
        while True:
            yield from self._open_pass(epoch, start)
            epoch, start = epoch + 1, 0

    def steps_before(self, epoch: int, iteration: int) -> int | None:
        """Return the optimizer steps up to an iteration of an epoch; None within an accumulation window."""
        if iteration % self._accumulate and iteration < self.per_epoch:
            return None
        return epoch * self.steps_per_epoch + math.ceil(iteration / self._accumulate)

    def window(self, iteration: int) -> tuple[bool, float | None, int]:
        """Return whether a batch closes its accumulation window, the weight of its loss, and its samples on this rank.

        The weight is the batch's share of the window's samples on all ranks, times the number of ranks, since these
        average their gradients; None for 1.
        """
        size, whole = self._sizes_at(self._first + iteration)
        closes_window = True
        if self._accumulate > 1:
            start = iteration - iteration % self._accumulate
            stop = min(start + self._accumulate, self.per_epoch)
            closes_window = iteration + 1 == stop
            whole = sum(self._sizes_at(self._first + i)[1] for i in range(start, stop))
        weight = size * self._data_size / (whole or 1)
        return closes_window, None if weight == 1 else weight, size
