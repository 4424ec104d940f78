"""How a loader reads a data set: each sample with random numbers of its own, and what to do with one that is broken."""

from __future__ import annotations

import itertools
import multiprocessing
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from common.config.errors import RunError
from common.data.subset import draws_random_numbers, path_of
from common.log.console import add_log
from common.run.seed import derive_seed, random_state_kept

_NO_SAMPLE = -1  # in the place of an index
_seed_torch = torch.default_generator.manual_seed


class Batch(list):
    """A batch's indices, and the epoch they are read in."""

    def __init__(self, indices: list[int], epoch: int):
        super().__init__(indices)
        self.epoch = epoch

    def __reduce__(self):
        return Batch, (list(self), self.epoch)


class SampleReader(Dataset):
    """Reads the samples of a data set, in the process of the trainer or of a worker.

    Python's, NumPy's and torch's random numbers are seeded for each sample from (seed, epoch, index), so that
    augmentation depends neither on the number of workers nor on where a run was cut; a set with ``__getitems__`` is
    seeded once a batch, from its first index. The trainer's own random numbers are left as they were.

    Seeding Python's and NumPy's takes longer than many a sample: that begins with the first batch that draws from them,
    which is read twice.

    Args:
        dataset: Map-style. Its ``path(index)``, if it has one, is named where a sample cannot be read.
        seed: Seed of the random numbers.
        where: The data set's name in messages, such as ``dataset.train``.
        replace: Read the next sample that can be read in the place of a broken one, instead of raising.
        limit: So many samples may be replaced, in all workers together.
    """

    def __init__(self, dataset: Dataset, seed: int = 0, where: str = "data", replace: bool = False, limit: int = 100):
        self.dataset = dataset
        self._seed, self._where, self._replace, self._limit = seed, where, replace, limit
        self._replaced = multiprocessing.Value("q", 0)
        self._draws_widely = multiprocessing.RawValue("b", False)  # from Python's or NumPy's generator
        self._whole = getattr(dataset, "__getitems__", None)
        self._draws = draws_random_numbers(dataset)  # seeding would cost more than a plain row

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return one sample, as in epoch 0."""
        return self.__getitems__(Batch([index], 0))[0]

    def __getitems__(self, indices: list[int]) -> Any:
        """Return the samples, or the whole batch if the set makes such.

        Raises:
            RunError: A sample cannot be read, and none may be put in its place.
        """
        if not self._draws:
            return self._whole(indices)
        base, broken = derive_seed(self._seed, getattr(indices, "epoch", 0), 1), None
        with nullcontext() if get_worker_info() else random_state_kept():
            if self._whole is not None:
                try:
                    _seed(base, indices[0], widely=True)
                    return self._whole(indices)
                except Exception as error:
                    broken, before = error, self._replaced.value
            samples = self._read_all(indices, base)
            if broken is not None and self._replaced.value == before:
                raise broken  # not one of the samples is to blame
            return samples

    def path(self, index: int) -> Any:
        """Return the file of a sample, if the data set knows it."""
        return path_of(self.dataset, index)

    def _read_all(self, indices: list[int], base: int) -> list[Any]:
        """Return samples, each with its random numbers."""
        if not self._draws_widely.value:
            replaced = self._replaced.value
            _seed(base, _NO_SAMPLE, widely=True)
            samples = [self._read(index, base, widely=False) for index in indices]
            if _is_untouched(base):
                return samples
            self._draws_widely.value, self._replaced.value = True, replaced
        return [self._read(index, base, widely=True) for index in indices]

    def _read(self, index: int, base: int, widely: bool) -> Any:
        """Return a sample, or the next one that can be read in its place."""
        for tries in itertools.count(1):
            _seed(base, index, widely)
            try:
                return self.dataset[index]
            except MemoryError:
                raise
            except Exception as error:
                self._pass_over(index, error)
            if tries == len(self):
                raise RunError(f"{self._where}: no sample can be read")
            index = (index + 1) % len(self)

    def _pass_over(self, index: int, error: Exception) -> None:
        """Count a broken sample, or raise if it may not be passed over."""
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


def _seed(base: int, index: int, widely: bool) -> None:
    """Seed torch's generator for one sample, and Python's and NumPy's if ``widely``.

    Knuth's multiplicative hash spreads neighbouring indices.
    """
    seed = base ^ (index * 2654435761 % 2**32)
    _seed_torch(seed)
    if widely:
        random.seed(seed)
        np.random.seed(seed)


def _is_untouched(base: int) -> bool:
    """Return whether nobody has drawn from Python's and NumPy's generators since they were seeded for no sample."""
    found = random.getrandbits(64), np.random.bytes(8)
    _seed(base, _NO_SAMPLE, widely=True)
    return found == (random.getrandbits(64), np.random.bytes(8))
