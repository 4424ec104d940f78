"""Data sets: base classes, parts of sets, which samples form each batch, and how these are read."""

from __future__ import annotations

import math
import multiprocessing
import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, default_collate, get_worker_info

from common.config.errors import RunError, UserError, nearest
from common.log.console import add_log
from common.run.distributed import get_data_rank, get_data_size
from common.run.seed import derive_seed, random_state_kept

_SEEDERS = {"python": random.seed, "numpy": np.random.seed, "torch": torch.default_generator.manual_seed}
ALL_GENERATORS = tuple(_SEEDERS)


def generators_of(dataset: Dataset) -> tuple[str, ...]:
    """Return the generators that a data set declares it draws from; all three if it declares nothing."""
    return getattr(dataset, "random_generators", ALL_GENERATORS)


def path_of(dataset: Any, index: int) -> Any:
    """Return the file of a sample, or None if the data set has no ``path(index)``."""
    return dataset.path(index) if hasattr(dataset, "path") else None


def seed_generators(names: Collection[str], seed: int) -> None:
    """Seed generators by their names."""
    for name in names:
        _SEEDERS[name](seed)


class BaseDataset(Dataset):
    """A map-style data set whose samples are dicts of tensors, numbers and strings, below ``dir.data_dir``.

    Subclasses implement ``__len__`` and ``__getitem__(index) -> dict``. One that reads many samples at once also
    implements ``__getitems__(indices) -> dict``, which returns a whole batch and saves the collation. One whose samples
    are files may implement ``path(index)``, which error messages then name.
    """

    random_generators: tuple[str, ...] = ALL_GENERATORS
    """The generators that reading a sample draws from; they are seeded for each sample. ``()``: it draws nothing."""

    def __init__(self, data_dir: str | Path):
        self.data_dir = Path(data_dir)

    def __init_subclass__(cls, **keywords: Any):
        """Let what a subclass overrides win over what its bases declare about their own reading.

        A new ``__getitem__`` replaces an inherited ``__getitems__``, which does not call it. Either of them makes an
        inherited ``random_generators`` void.
        """
        super().__init_subclass__(**keywords)
        # How many classes up the inheritance each is defined: 0 is the class itself.
        single, batch, declared = (
            next((i for i, base in enumerate(cls.__mro__) if name in vars(base)), len(cls.__mro__))
            for name in ("__getitem__", "__getitems__", "random_generators")
        )
        if single < batch and hasattr(cls, "__getitems__"):
            setattr(cls, "__getitems__", None)  # noqa: B010
        if min(single, batch) < declared:
            cls.random_generators = ALL_GENERATORS

    @classmethod
    def check_split(cls, split: str, known: Collection[str]) -> None:
        """Raise a UserError if a split is not one of the known ones."""
        if split not in known:
            raise UserError(f"{cls.__name__}: split must be one of {', '.join(known)}, found {split!r}")

    def find(self, relative: str) -> Path:
        """Return a file or folder below ``data_dir``; raise a UserError if it does not exist."""
        path = self.data_dir / relative
        if not path.exists():
            raise UserError(f"{type(self).__name__}: {path} not found; --dir.data_dir is the folder of all data sets")
        return path


class ArrayDataset(BaseDataset):
    """A data set in memory: named tensors with one row per sample. A batch is one ``index_select`` per tensor."""

    random_generators = ()

    def __init__(self, data_dir: str | Path, **tensors: torch.Tensor):
        super().__init__(data_dir)
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"expected tensors with the same number of samples, found {lengths}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        rows = torch.from_numpy(np.array(indices))  # four times as fast as torch.tensor of a list
        return {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}


class View(Dataset):
    """The samples of a data set at ``rows`` (None: all), transformed.

    ``transforms(sample)`` returns a sample, ``transforms.on_batch(batch)`` a batch where the data set reads whole ones
    (``__getitems__``). ``transforms.random_generators`` says which generators they draw from, by default all.
    """

    def __init__(self, dataset: Any, rows: Sequence[int] | None = None, transforms: Any = None):
        self.dataset, self.transforms = dataset, transforms
        self.rows = range(len(dataset)) if rows is None else rows
        drawn = generators_of(transforms) if transforms else ()
        self.random_generators = tuple(dict.fromkeys([*generators_of(dataset), *drawn]))
        if getattr(dataset, "__getitems__", None):
            self.__getitems__ = self._read_batch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[self.rows[index]]
        return self.transforms(sample) if self.transforms else sample

    def _read_batch(self, indices: list[int]) -> Any:
        batch = self.dataset.__getitems__([self.rows[index] for index in indices])
        if not self.transforms:
            return batch
        return self.transforms.on_batch(batch) if isinstance(batch, dict) else [*map(self.transforms, batch)]

    def path(self, index: int) -> Any:
        """Return the file of a sample, if the data set knows it."""
        return path_of(self.dataset, self.rows[index])


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


class SampleReader(Dataset):
    """Reads the samples of a data set, called ``where`` in messages, in the trainer's process or in a worker.

    The generators that the data set declares are seeded for each sample from (seed, epoch, index), or for each batch
    from its first index where it reads whole ones. So augmentation depends neither on the number of workers nor on
    where a run was interrupted, and the trainer's random numbers are not affected. With ``replace`` the next sample
    takes the place of a broken one, at most ``limit`` times in all workers together.
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

    def path(self, index: int) -> Any:
        """Return the file of a sample, if the data set knows it."""
        return path_of(self.dataset, index)

    def __getitem__(self, index: int) -> Any:
        """Return one sample, with the random numbers of epoch 0."""
        with random_state_kept():
            return self._read_sample(index, derive_seed(self._seed, 0, 1))

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
        seed_generators(self._generators, base ^ (index * 2654435761 % 2**32))


def collate(samples: Any) -> Any:
    """Return a batch from samples, or the batch itself where the data set already made one."""
    return samples if isinstance(samples, dict) else default_collate(samples)


def draw_rows(length: int, rate: float | int, seed: int) -> list[int]:
    """Return the numbers of randomly drawn samples, ascending: a share of ``length`` (float) or so many (int)."""
    count = min(length, rate if isinstance(rate, int) else round(rate * length))
    generator = torch.Generator().manual_seed(derive_seed(seed, 0, 2))
    return sorted(torch.randperm(length, generator=generator)[:count].tolist())


def split_groups(groups: Sequence[str], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Divide samples at random into disjoint sets, and return the numbers of the samples in each, ascending.

    ``groups`` holds the group of each sample, such as the patient or car that it shows; a group is never divided.
    ``shares`` are the sets' shares of the groups, such as (0.8, 0.1, 0.1); they may add up to less than 1.
    """
    if min(shares) < 0 or sum(shares) > 1 + 1e-9:
        raise ValueError(f"shares must not be negative, nor above 1 together, found {list(shares)}")
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.round(np.cumsum([0.0, *shares]) * len(names)).astype(int)
    place = {names[number]: i for i, number in enumerate(order)}
    places = [place[group] for group in groups]
    return [[i for i, p in enumerate(places) if a <= p < b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


def check_labels(labels: torch.Tensor, num_classes: int, where: str) -> None:
    """Raise a UserError if one of the class numbers (samples,) from the file ``where`` is out of range."""
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise UserError(f"{where}: sample {index} has label {labels[index]}, expected 0 to {num_classes - 1}")
