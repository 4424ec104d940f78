"""A loader whose order depends on seed, epoch and position alone, and how it reads a data set."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from contextlib import nullcontext, suppress
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from common.config.console import protect_console
from common.config.errors import RunError, UserError, nearest
from common.data.batches import PositionedBatchSampler
from common.data.dataset import generators_of, path_of
from common.log.console import add_log
from common.run.distributed import let_threads_rest
from common.run.seed import derive_seed, random_state_kept
from common.run.signals import end_with_parent, ignore_child_exits, ignore_signals

_SEEDERS = {"python": random.seed, "numpy": np.random.seed, "torch": torch.default_generator.manual_seed}
_SMALL = 1 << 18  # bytes: above them shared memory is as fast as a copy


class SampleReader(Dataset):
    """Reads the samples of a data set, called ``where`` in messages, in the trainer's process or in a worker.

    The generators that the data set declares (``random_generators``) are seeded for each sample from (seed, epoch,
    index), or once per batch from its first index for whole batches (``__getitems__``). So augmentation depends neither
    on the number of workers nor on where a run was interrupted, and the trainer's random numbers are not affected.

    With ``replace`` the next sample takes the place of a broken one, at most ``limit`` times in all workers together.
    """

    def __init__(self, dataset: Any, seed: int = 0, where: str = "data", replace: bool = False, limit: int = 100):
        self.dataset = dataset
        self._seed, self._where, self._replace, self._limit = seed, where, replace, limit
        self._replaced = multiprocessing.Value("q", 0)
        self._read_batch = getattr(dataset, "__getitems__", None)
        self._generators = generators_of(dataset)
        for name in self._generators:
            if name not in _SEEDERS:
                place = f"{type(dataset).__name__}.random_generators"
                raise UserError(f"{place}: unknown '{name}', {nearest(name, _SEEDERS)}")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return one sample, with the random numbers of epoch 0."""
        with random_state_kept():
            return self._read_sample(index, derive_seed(self._seed, 0, 1))

    def path(self, index: int) -> Any:
        """Return the file of a sample, if the data set knows it."""
        return path_of(self.dataset, index)

    def __getitems__(self, indices: list[int]) -> Any:
        """Return the samples, or a whole batch if the data set returns such."""
        if not self._generators:
            return self._read(indices, 0)
        with nullcontext() if get_worker_info() else random_state_kept():
            return self._read(indices, derive_seed(self._seed, getattr(indices, "epoch", 0), 1))

    def _read(self, indices: list[int], base: int) -> Any:
        if self._read_batch is None:
            return [self._read_sample(index, base) for index in indices]
        try:
            if self._generators:
                self._seed_generators(base, indices[0])
            return self._read_batch(indices)
        except Exception:
            before = self._replaced.value
            samples = [self._read_sample(index, base) for index in indices]
            if self._replaced.value == before:  # no sample is to blame
                raise
            return samples

    def _read_sample(self, index: int, base: int) -> Any:
        """Return a sample, or the next one that can be read."""
        for _ in range(len(self)):
            self._seed_generators(base, index)
            try:
                return self.dataset[index]
            except MemoryError:
                raise
            except Exception as error:
                self._count_broken(index, error)
            index = (index + 1) % len(self)
        raise RunError(f"{self._where}: no sample can be read")

    def _count_broken(self, index: int, error: Exception) -> None:
        """Count a broken sample, or raise if it must not be replaced."""
        path = self.path(index)
        sample = f"{self._where}: sample {index}{f' ({path})' if path else ''}"
        text = f"{sample} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}"
        if not self._replace:
            raise RunError(f"{text}; --dataset.bad_sample replace would read the next one instead") from error
        with self._replaced.get_lock():
            self._replaced.value += 1
            if self._replaced.value > self._limit:
                raise RunError(f"{text}; these are more than dataset.bad_sample_limit, {self._limit}") from error
        add_log(f"{text}; the next one is read instead", "ERROR")

    def _seed_generators(self, base: int, index: int) -> None:
        """Seed the generators for one sample; Knuth's multiplicative hash spreads neighboring indices."""
        seed = base ^ (index * 2654435761 % 2**32)
        for name in self._generators:
            _SEEDERS[name](seed)


class Loader(DataLoader):
    """A loader that raises for a dead worker, within 5 s, where it is asked for a batch.

    torch's own handler raises wherever Python happens to be, even within a step or a save.
    """

    dataset: Any
    batch_sampler: Any
    transform_batch: Callable[[dict], dict] | None = None

    def __iter__(self) -> Any:
        if not self.num_workers and not self.pin_memory:  # torch's iterator takes as long as a batch from memory does
            return map(self.collate_fn, map(self.dataset.__getitems__, self.batch_sampler))
        if self.num_workers:
            let_threads_rest()
        batches = super().__iter__()
        ignore_child_exits()
        return batches


def make_loader(
    dataset: Any,
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
    """Return the loader of a map-style data set for this rank.

    Args:
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
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and worker > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own, so that the start of an epoch draws nothing from the trainer's
    )
    loader.transform_batch = transform_batch
    return loader


def collate(samples: Any) -> Any:
    """Return a batch from samples, or the batch itself where the data set already made one."""
    return samples if isinstance(samples, dict) else default_collate(samples)


def _start_worker(_number: int) -> None:
    """Make a worker end with its trainer, whose connections to other ranks it would keep open otherwise."""
    protect_console()  # where the worker is no fork of the trainer
    ForkingPickler.register(torch.Tensor, _hand_over)
    ignore_signals()
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if multiprocessing.get_start_method() == "fork" and parent and os.getppid() != parent.pid:
        os._exit(1)  # the trainer has died already


def _hand_over(tensor: torch.Tensor) -> tuple[Callable, tuple]:
    """Pickle a tensor of a worker: a small one is copied, which is faster than sharing its memory."""
    with suppress(TypeError, RuntimeError):  # no such array exists, as for bfloat16 or a sparse tensor
        if tensor.nbytes <= _SMALL:
            return torch.from_numpy, (tensor.numpy(),)
    return reduce_tensor(tensor)
