"""How a loader reads a data set: random numbers of its own for each sample, and what to do with broken samples."""

from __future__ import annotations

import itertools
import multiprocessing
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from common.config.errors import RunError, UserError, nearest
from common.data.dataset import generators_of, path_of
from common.log.console import add_log
from common.run.seed import derive_seed, random_state_kept

_SEEDERS = {"python": random.seed, "numpy": np.random.seed, "torch": torch.default_generator.manual_seed}


class Batch(list[int]):
    """The indices of a batch, and the epoch in which it is read."""

    epoch = 0


class SampleReader(Dataset):
    """Reads the samples of a data set, in the trainer's process or in a worker.

    The generators that the data set declares (``BaseDataset.random_generators``) are seeded for each sample from (seed,
    epoch, index), so that augmentation depends neither on the number of workers nor on where a run was interrupted; a
    data set with ``__getitems__`` is seeded once per batch, from its first index. The trainer's own random numbers are
    not affected.

    Args:
        dataset: Map-style. Its ``path(index)``, if it has one, names the file of a sample that cannot be read.
        seed: Seed of the random numbers.
        where: The data set's name in messages, such as ``dataset.train``.
        replace: Replace a broken sample by the next one that can be read, instead of raising.
        limit: How many samples may be replaced, in all workers together.

    Raises:
        UserError: The data set declares an unknown generator.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, where: str = "data", replace: bool = False, limit: int = 100):
        self.dataset = dataset
        self._seed, self._where, self._replace, self._limit = seed, where, replace, limit
        self._replaced = multiprocessing.Value("q", 0)
        self._read_batch = getattr(dataset, "__getitems__", None)
        self._generators = generators_of(dataset)
        for name in self._generators:
            if name not in _SEEDERS:
                where = f"{type(dataset).__name__}.random_generators"
                raise UserError(f"{where}: unknown '{name}', {nearest(name, _SEEDERS)}")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return one sample, with the random numbers of epoch 0."""
        with random_state_kept():
            return self._read(index, self._base_seed(0))

    def __getitems__(self, indices: list[int]) -> Any:
        """Return the samples, or a whole batch if the data set returns such.

        Raises:
            RunError: A sample cannot be read and must not be replaced.
        """
        if self._read_batch is None or self._generators:
            return self._read_seeded(indices)
        try:
            return self._read_batch(indices)
        except Exception as error:
            return self._read_singly(indices, 0, error)

    def path(self, index: int) -> Any:
        """Return the file of a sample, if the data set knows it."""
        return path_of(self.dataset, index)

    def _read_seeded(self, indices: list[int]) -> Any:
        """Return the samples or the batch, and leave the random numbers of the trainer as they were."""
        base = self._base_seed(getattr(indices, "epoch", 0))
        with nullcontext() if get_worker_info() else random_state_kept():
            if self._read_batch is None:
                return [self._read(index, base) for index in indices]
            try:
                self._seed_generators(base, indices[0])
                return self._read_batch(indices)
            except Exception as error:
                return self._read_singly(indices, base, error)

    def _read_singly(self, indices: list[int], base: int, error: Exception) -> list[Any]:
        """Return the samples of a batch that could not be read, or raise its error if no sample is to blame."""
        before = self._replaced.value
        samples = [self._read(index, base) for index in indices]
        if self._replaced.value == before:
            raise error
        return samples

    def _read(self, index: int, base: int) -> Any:
        """Return a sample, or the next one that can be read."""
        for tries in itertools.count(1):
            self._seed_generators(base, index)
            try:
                return self.dataset[index]
            except MemoryError:
                raise
            except Exception as error:
                self._count_broken(index, error)
            if tries == len(self):
                raise RunError(f"{self._where}: no sample can be read")
            index = (index + 1) % len(self)

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

    def _base_seed(self, epoch: int) -> int:
        return derive_seed(self._seed, epoch, 1)

    def _seed_generators(self, base: int, index: int) -> None:
        """Seed the generators for one sample; Knuth's multiplicative hash spreads neighboring indices."""
        seed = base ^ (index * 2654435761 % 2**32)
        for name in self._generators:
            _SEEDERS[name](seed)
