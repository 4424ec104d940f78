"""A loader whose order depends on seed, epoch and position alone, and that can begin at any batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from common.data.reader import Batch, SampleReader
from common.run.distributed import get_data_rank, get_data_size, let_threads_rest
from common.run.seed import derive_seed
from common.run.signals import end_with_parent, overlook_children, pass_over_signals
from common.state.host_copy import map_nested

_SMALL = 1 << 18  # bytes: beyond them shared memory is as fast as a copy


class PositionedBatchSampler(Sampler[list[int]]):
    """This rank's batches of indices.

    The order of all samples is drawn from (seed, epoch). In batch ``i`` the ranks together hold the samples at
    ``[i * B * W, (i + 1) * B * W)`` of that order, each rank every W-th of them, so that the samples of a step do not
    depend on how many processes share its ``B * W`` samples.

    Each sample comes once. All ranks have the same number of batches: one that has no sample left in the last of them
    stands in with the others' samples there, and its size in ``sizes_at`` is 0, so that they do not count.

    Args:
        length: Samples in the set.
        batch_size: Samples a batch on one rank, B.
        shuffle: Draw a new order every epoch; otherwise the order of the set.
        seed: Seed of the order.
        drop_last: Leave out a last batch that is not full.
    """

    def __init__(self, length: int, batch_size: int, shuffle: bool, seed: int = 0, drop_last: bool = False):
        self.batch_size = batch_size
        self._shuffle, self._seed = shuffle, seed
        self._epoch = self._start = 0
        self._rank, self._world = get_data_rank(), get_data_size()
        self._step = batch_size * self._world
        self._length, self._used = length, length - length % self._step if drop_last else length
        self._batches = -(-self._used // self._step)

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Let the next pass be that of ``epoch``, from batch number ``start`` on; later passes begin at 0."""
        self._epoch, self._start = epoch, start

    def sizes_at(self, batch: int) -> tuple[int, int]:
        """Return how many samples a batch holds on this rank and on all; the number may run on over several passes."""
        total = min(self._step, self._used - batch % self._batches * self._step)
        return (total - self._rank + self._world - 1) // self._world, total

    def places_at(self, batch: int) -> range:
        """Return the places in the order of a pass, which without a shuffle are the samples' numbers, of a batch."""
        first = batch * self._step
        return range(first + self._rank, min(first + self._step, self._used), self._world)

    def __len__(self) -> int:
        """Return the number of batches of a whole pass."""
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch."""
        start, self._start = self._start, 0
        order = self._order()
        for first in range(start * self._step, self._used, self._step):
            whole = order[first : min(first + self._step, self._used)]
            mine = whole[self._rank :: self._world]
            yield Batch((mine if len(mine) else whole).tolist(), self._epoch)

    def _order(self) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._length)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, self._epoch))
        return torch.randperm(self._length, generator=generator).numpy()


class Loader(DataLoader):
    """A loader that finds out where it is asked for a batch that a worker has died, which takes up to 5 s.

    torch's own handler would raise that at once wherever Python may be, also within a step or a save. Without workers
    it makes the batches itself: torch's iterator takes as long as a batch from memory.
    """

    transform_batch: Callable[[dict], dict] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Return the batches of a pass."""
        if not self.num_workers and not self.pin_memory:
            return (self.collate_fn(self.dataset.__getitems__(indices)) for indices in self.batch_sampler)
        if self.num_workers:
            let_threads_rest()
        batches = super().__iter__()
        overlook_children()
        return batches


def make_loader(
    dataset: Dataset,
    batch_size: int,
    worker: int = 0,
    training: bool = False,
    seed: int = 0,
    pin_memory: bool = False,
    persistent_workers: bool = True,
    drop_last: bool = False,
    transform_batch: Callable[[dict], dict] | None = None,
    **reading: Any,
) -> Loader:
    """Return this rank's loader of a data set.

    Args:
        dataset: Map-style; one with ``__getitems__`` that returns a dict gives whole batches.
        batch_size: Samples a batch on one rank.
        worker: Processes that load data.
        training: Shuffle anew every epoch. Otherwise the samples come in order.
        seed: Seed of the order and of each sample's random numbers.
        pin_memory: Copy batches to page-locked memory, from which a GPU reads beside its work.
        persistent_workers: Let the workers live as long as the loader, not start anew every epoch.
        drop_last: Leave out a last batch that is not full.
        transform_batch: What trainers and testers do to each batch once it is on the device.
        **reading: ``where``, ``replace`` and ``limit`` of the ``SampleReader`` that stands around the data set.
    """
    loader = Loader(
        SampleReader(dataset, seed, **reading),
        batch_sampler=PositionedBatchSampler(len(dataset), batch_size, training, seed, drop_last),
        num_workers=worker,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and worker > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # of its own, so that an epoch's start draws nothing from the trainer's
    )
    loader.transform_batch = transform_batch
    return loader


def _start_worker(_number: int) -> None:
    """Let a worker end with its trainer, whose connections to other ranks it would keep open otherwise."""
    pass_over_signals()
    end_with_parent(signal.SIGKILL)
    if multiprocessing.get_start_method() == "fork" and os.getppid() != multiprocessing.parent_process().pid:
        os._exit(1)  # the trainer was gone before


def collate(samples: Any) -> Any:
    """Return a batch from samples, or the batch itself where the set already made one."""
    batch = samples if isinstance(samples, dict) else default_collate(samples)
    return map_nested(batch, lambda _, value: _to_hand_over(value)) if get_worker_info() else batch


def _to_hand_over(value: Any) -> Any:
    """Return what a worker sends: a small tensor is copied, which is faster than to share its memory."""
    try:
        if type(value) is torch.Tensor and value.nbytes <= _SMALL:
            return _Copied(value.numpy())
    except (TypeError, RuntimeError):  # there is no such array, as of bfloat16 or of a sparse tensor
        pass
    return value


class _Copied:
    """An array that arrives at another process as a tensor."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def __reduce__(self):
        return torch.from_numpy, (self._array,)
