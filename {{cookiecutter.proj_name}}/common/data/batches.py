"""Which samples form each batch, and the batches of a loader on their way to the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from common.run.distributed import get_data_rank, get_data_size
from common.run.seed import derive_seed
from common.run.strategy import map_nested, move_to


class Batch(list[int]):
    """The indices of a batch, and the epoch in which it is read."""

    epoch = 0


class PositionedBatchSampler(Sampler[list[int]]):
    """The batches of indices of this rank, from any batch of any epoch on.

    The order of all samples is drawn from (seed, epoch). In step ``i`` all W ranks together take the samples at
    ``[i * B * W, (i + 1) * B * W)`` of that order, each rank every W-th of them, with B samples on each rank: which
    samples form a step does not depend on the number of processes. Where the last step has no sample left for a rank,
    it repeats those of the others, so that all ranks have as many batches; its size in ``sizes_at`` is then 0.
    """

    def __init__(self, length: int, batch_size: int, shuffle: bool, seed: int = 0, drop_last: bool = False):
        self.batch_size = batch_size
        self._shuffle, self._seed = shuffle, seed
        self._epoch = self._start = 0
        self._rank, self._world = get_data_rank(), get_data_size()
        self._step = batch_size * self._world
        self._length, self._used = length, length - length % self._step if drop_last else length
        self._batches = math.ceil(self._used / self._step)

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Make the next pass that of ``epoch``, from batch number ``start`` on; later passes start at 0."""
        self._epoch, self._start = epoch, start

    def sizes_at(self, batch: int) -> tuple[int, int]:
        """Return the number of samples in a batch on this rank and on all; counting may continue over passes."""
        total = min(self._step, self._used - batch % self._batches * self._step)
        return (total - self._rank + self._world - 1) // self._world, total

    def places_at(self, batch: int) -> range:
        """Return a batch's places in the order of a pass; unshuffled, these are the numbers of its samples."""
        first = batch * self._step
        return range(first + self._rank, min(first + self._step, self._used), self._world)

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        order = np.arange(self._length)
        if self._shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, self._epoch))
            order = torch.randperm(self._length, generator=generator).numpy()
        order = order[: self._used]
        for first in range(start * self._step, self._used, self._step):
            step = order[first : first + self._step]
            mine = step[self._rank :: self._world]
            batch = Batch((mine if mine.size else step).tolist())
            batch.epoch = self._epoch
            yield batch


def find_sizes_at(loader: DataLoader) -> Callable[[int], tuple[int, int]] | None:
    """Return the function that tells the size of a batch on this rank and on all, or None if the loader has none."""
    return getattr(getattr(loader, "batch_sampler", None), "sizes_at", None)


def open_pass(loader: DataLoader, epoch: int, start: int = 0) -> Iterator[dict]:
    """Return the batches of one pass over a loader, from batch number ``start`` on."""
    if find_sizes_at(loader):
        batch_sampler: Any = loader.batch_sampler
        batch_sampler.set_position(epoch, start)
        return iter(loader)
    sampler = getattr(loader, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    return islice(iter(loader), start, None)  # a foreign loader reads the batches before, too


def on_device(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Return the batches on the device; a GPU receives each while it computes with the one before."""
    if device.type == "cuda":
        return prefetch(batches, device)
    return iter(batches) if device.type == "cpu" else (move_to(batch, device) for batch in batches)


def prefetch(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Yield batches on the device, each copied on a stream of its own while the one before is in use.

    The copy overlaps with the computation from pinned memory only. Source: the note "CUDA semantics" of PyTorch.
    """
    backend = torch.get_device_module(device)
    stream, upcoming = backend.Stream(), None

    def keep_memory(_path: tuple, value: Any) -> Any:
        """Tell the allocator that the computation's stream, too, uses this memory, so that it is not reused early."""
        if isinstance(value, torch.Tensor) and not value.is_cpu:
            value.record_stream(backend.current_stream())
        return value

    for batch in batches:
        with backend.stream(stream):
            copied = move_to(batch, device)
        if upcoming is not None:
            yield upcoming
        backend.current_stream().wait_stream(stream)
        upcoming = map_nested(copied, keep_memory)
    if upcoming is not None:
        yield upcoming


def join_batches(batches: list[tuple[dict, ...]]) -> tuple[dict, ...]:
    """Return the dicts of several batches, such as their data and outputs, as one batch; the first if shapes differ."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], torch.Tensor) and values[0].ndim:
            return torch.cat(values)
        return [item for value in values for item in value] if isinstance(values[0], list) else values[0]

    if len(batches) == 1:
        return batches[0]
    with suppress(RuntimeError):
        return tuple({key: join([d[key] for d in dicts]) for key in dicts[0]} for dicts in zip(*batches, strict=True))
    return batches[0]


def stop_workers(loader: Any) -> None:
    """End the persistent workers of a loader, which otherwise live until Python collects the loader."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        with suppress(RuntimeError):  # one of them has died already
            iterator._shutdown_workers()
        loader._iterator = None


class TrainingBatches:
    """The batches of epoch after epoch on the device; the gradients of ``accumulate`` batches make an optimizer step.

    By epochs, each epoch is one pass over the loader. By iterations, an epoch resumes where the last one stopped: the
    position in the passes follows from the number of iterations made.
    """

    def __init__(
        self, loader: DataLoader, by_epoch: bool, per_epoch: int | None, accumulate: int, device: torch.device
    ):
        self.per_epoch, self.by_epoch = per_epoch or len(loader), by_epoch
        self.transform = getattr(loader, "transform_batch", None)
        self.loader, self._accumulate, self._device = loader, accumulate, device
        self._data_size = get_data_size()
        # A loader that does not tell its batches' sizes counts them alike.
        self._sizes_at = find_sizes_at(loader) or (lambda batch: (1, self._data_size))
        self._endless: Iterator[dict] | None = None
        self._first = 0  # the position in the passes of this epoch's first batch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch; an accumulation window never reaches into the next epoch."""
        return math.ceil(self.per_epoch / self._accumulate)

    def open(self, epoch: int, iteration: int, total: int) -> Iterator[dict]:
        """Return the batches of an epoch from an iteration on, after ``total`` iterations of the run."""
        if self.by_epoch:
            return on_device(open_pass(self.loader, epoch, iteration), self._device)
        self._first = total - iteration
        if self._endless is None:
            self._endless = on_device(self._passes(total), self._device)
        return self._endless

    def _passes(self, done: int) -> Iterator[dict]:
        epoch, start = divmod(done, len(self.loader))
        while True:
            yield from open_pass(self.loader, epoch, start)
            epoch, start = epoch + 1, 0

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
        weight = size * self._data_size / whole
        return closes_window, None if weight == 1 else weight, size
