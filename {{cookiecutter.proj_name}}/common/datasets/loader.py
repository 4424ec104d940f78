"""A loader whose order depends on seed, epoch and position alone, and that can begin at any batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from common.datasets.sample_reader import Batch, SampleReader
from common.distributed import get_rank, get_world_size, is_distributed
from common.seed import derive_seed
from common.signals import overlook_children, pass_over_signals


class PositionedBatchSampler(Sampler[list[int]]):
    """This rank's batches of indices.

    The order of all samples is drawn from (seed, epoch). In batch ``i`` the ranks together hold the samples at
    ``[i * B * W, (i + 1) * B * W)`` of that order, each rank every W-th of them, so that the samples of a step do not
    depend on how many processes share its ``B * W`` samples.

    Args:
        length: Samples in the set.
        batch_size: Samples a batch on one rank, B.
        shuffle: Draw a new order every epoch; otherwise the order of the set.
        seed: Seed of the order.
        even: Give every rank the same number of samples, by repeating the first few: what training needs. Otherwise
            each sample comes once, and ranks may differ by one.
        drop_last: Leave out a last batch that is not full.
    """

    def __init__(
        self, length: int, batch_size: int, shuffle: bool, seed: int = 0, even: bool = False, drop_last: bool = False
    ):
        self.batch_size = batch_size
        self._length, self._shuffle, self._seed, self._even = length, shuffle, seed, even
        self._epoch = self._start = 0
        rank, world = get_rank(), get_world_size()
        self._samples = -(-length // world) if even else (length - rank + world - 1) // world
        if drop_last:
            self._samples -= self._samples % batch_size

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Let the next pass be that of ``epoch``, from batch number ``start`` on; later passes begin at 0."""
        self._epoch, self._start = epoch, start

    def size_at(self, batch: int) -> int:
        """Return how many samples a batch holds; the number may run on over several passes."""
        return min(self.batch_size, self._samples - batch % len(self) * self.batch_size)

    def __len__(self) -> int:
        """Return the number of batches of a whole pass."""
        return -(-self._samples // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch."""
        start, self._start = self._start, 0
        order = self._order()
        for i in range(start, len(self)):
            stop = min((i + 1) * self.batch_size, self._samples)
            yield Batch(order[i * self.batch_size : stop].tolist(), self._epoch)

    def _order(self) -> torch.Tensor:
        if self._shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self._seed, self._epoch))
            order = torch.randperm(self._length, generator=generator)
        else:
            order = torch.arange(self._length)
        world = get_world_size()
        if self._even and self._length % world:
            order = torch.cat([order, order.repeat(world)[: world - self._length % world]])
        return order[get_rank() :: world]


class Loader(DataLoader):
    """A loader that finds out where it is asked for a batch that a worker has died, which takes up to 5 s.

    torch's own handler would raise that at once wherever Python may be, also within a step or a save.
    """

    def __iter__(self) -> Iterator[Any]:
        """Return the batches of a pass."""
        if self.num_workers and is_distributed():
            # A worker forked while one of gloo's threads takes hold of Python, to free a tensor, never starts.
            time.sleep(0.02)
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
    **reading: Any,
) -> Loader:
    """Return this rank's loader of a data set.

    Args:
        dataset: Map-style; one with ``__getitems__`` that returns a dict gives whole batches.
        batch_size: Samples a batch on one rank.
        worker: Processes that load data.
        training: Shuffle, and give every rank the same number of batches. Otherwise each sample comes once, in order.
        seed: Seed of the order and of each sample's random numbers.
        pin_memory: Copy batches to page-locked memory, from which a GPU reads beside its work.
        persistent_workers: Let the workers live as long as the loader, not start anew every epoch.
        **reading: ``where``, ``replace`` and ``limit`` of the ``SampleReader`` that stands around the data set.
    """
    return Loader(
        SampleReader(dataset, seed, **reading),
        batch_sampler=PositionedBatchSampler(len(dataset), batch_size, shuffle=training, seed=seed, even=training),
        num_workers=worker,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and worker > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # of its own, so that an epoch's start draws nothing from the trainer's
    )


def _start_worker(_number: int) -> None:
    pass_over_signals()


def collate(samples: Any) -> Any:
    """Return a batch from samples, or the batch itself where the set already made one."""
    return samples if isinstance(samples, dict) else default_collate(samples)
