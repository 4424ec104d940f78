"""A loader whose order depends on seed, epoch and position alone, and that can start at any batch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.data.reader import Batch, SampleReader
from common.run.distributed import get_data_rank, get_data_size, let_threads_rest
from common.run.nested import map_nested
from common.run.seed import derive_seed
from common.run.signals import end_with_parent, ignore_child_exits, ignore_signals

_SMALL = 1 << 18  # bytes: above them shared memory is as fast as a copy


class PositionedBatchSampler(Sampler[list[int]]):
    """The batches of indices of this rank.

    The order of all samples is drawn from (seed, epoch). In step ``i`` all W ranks together take the samples at
    ``[i * B * W, (i + 1) * B * W)`` of that order, each rank every W-th of them: which samples form a step does not
    depend on the number of processes. Where the last step has no sample left for a rank, it repeats the samples of the
    others, so that all ranks have as many batches; its size in ``sizes_at`` is 0, so that they do not count.

    Args:
        length: Number of samples in the data set.
        batch_size: Samples per batch on one rank, B.
        shuffle: Draw a new order every epoch; otherwise the order of the data set.
        seed: Seed of the order.
        drop_last: Leave out a last step that is not full.
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
        """Make the next pass that of ``epoch``, from batch number ``start`` on; later passes start at 0."""
        self._epoch, self._start = epoch, start

    def sizes_at(self, batch: int) -> tuple[int, int]:
        """Return the number of samples in a batch on this rank and on all; counting may go on over passes."""
        total = min(self._step, self._used - batch % self._batches * self._step)
        return (total - self._rank + self._world - 1) // self._world, total

    def places_at(self, batch: int) -> range:
        """Return a batch's places in the order of a pass; unshuffled, these are the numbers of its samples."""
        first = batch * self._step
        return range(first + self._rank, min(first + self._step, self._used), self._world)

    def __len__(self) -> int:
        """Return the number of batches of a whole pass."""
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch."""
        start, self._start = self._start, 0
        order = self._draw_order()[: self._used]
        for first in range(start * self._step, self._used, self._step):
            step = order[first : first + self._step]
            mine = step[self._rank :: self._world]
            batch = Batch((mine if mine.size else step).tolist())
            batch.epoch = self._epoch
            yield batch

    def _draw_order(self) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._length)
        generator = torch.Generator().manual_seed(derive_seed(self._seed, self._epoch))
        return torch.randperm(self._length, generator=generator).numpy()


class Loader(DataLoader):
    """A loader that raises for a dead worker, within 5 s, where it is asked for a batch.

    torch's own handler raises wherever Python happens to be, even within a step or a save. Without workers the loader
    reads the batches itself, since torch's iterator takes as long as a batch from memory does.
    """

    transform_batch: Callable[[dict], dict] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Return the batches of a pass."""
        if not self.num_workers and not self.pin_memory:
            return map(self.collate_fn, map(self.dataset.__getitems__, self.batch_sampler))
        if self.num_workers:
            let_threads_rest()
        batches = super().__iter__()
        ignore_child_exits()
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
    """Return the loader of a data set for this rank.

    The arguments that are not described are those of ``torch.utils.data.DataLoader``.

    Args:
        dataset: Map-style; one with ``__getitems__`` that returns a dict yields whole batches.
        batch_size: Samples per batch on one rank.
        worker: Number of processes that load data.
        training: Shuffle anew every epoch; otherwise the samples come in order.
        seed: Seed of the order and of each sample's random numbers.
        transform_batch: What trainers and testers apply to each batch once it is on the device.
        **reading: ``where``, ``replace`` and ``limit`` of the ``SampleReader`` around the data set.
    """
    loader = Loader(
        SampleReader(dataset, seed, **reading),
        batch_sampler=PositionedBatchSampler(len(dataset), batch_size, training, seed, drop_last),
        num_workers=worker,
        collate_fn=_collate_in_worker if worker else collate,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and worker > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own, so that the start of an epoch draws nothing from the trainer's
    )
    loader.transform_batch = transform_batch
    return loader


def _start_worker(_number: int) -> None:
    """Make a worker end with its trainer, whose connections to other ranks it would keep open otherwise."""
    ignore_signals()
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if multiprocessing.get_start_method() == "fork" and parent and os.getppid() != parent.pid:
        os._exit(1)  # the trainer has died already


def collate(samples: Any) -> Any:
    """Return a batch from samples, or the batch itself where the data set already made one."""
    return samples if isinstance(samples, dict) else default_collate(samples)


def _collate_in_worker(samples: Any) -> Any:
    return map_nested(collate(samples), _to_hand_over)


def _to_hand_over(_path: tuple, value: Any) -> Any:
    """Return what a worker sends: a small tensor is copied, which is faster than sharing its memory."""
    with suppress(TypeError, RuntimeError):  # no such array exists, as for bfloat16 or a sparse tensor
        if type(value) is torch.Tensor and value.nbytes <= _SMALL:
            return _Copied(value.numpy())
    return value


class _Copied:
    """An array that arrives in the other process as a tensor."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def __reduce__(self) -> tuple:
        return torch.from_numpy, (self._array,)
