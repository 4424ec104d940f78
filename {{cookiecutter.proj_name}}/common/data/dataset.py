"""Base classes of data sets, what they share, and how parts of them are chosen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from common.config.errors import UserError
from common.run.seed import derive_seed

ALL_GENERATORS = ("python", "numpy", "torch")


def generators_of(dataset: Dataset) -> tuple[str, ...]:
    """Return the generators that a data set declares it draws from; all three if it declares nothing."""
    return getattr(dataset, "random_generators", ALL_GENERATORS)


def path_of(dataset: Dataset, index: int) -> Any:
    """Return the file of a sample, or None if the data set has no ``path(index)``."""
    find = getattr(dataset, "path", None)
    return find(index) if find else None


def _depth(cls: type, name: str) -> int:
    """Return how many classes up the inheritance an attribute is defined: 0 for the class itself."""
    return next((i for i, base in enumerate(cls.__mro__) if name in vars(base)), len(cls.__mro__))


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
        single, batch = _depth(cls, "__getitem__"), _depth(cls, "__getitems__")
        if single < batch and hasattr(cls, "__getitems__"):
            setattr(cls, "__getitems__", None)  # noqa: B010
        if min(single, batch) < _depth(cls, "random_generators"):
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
        self.random_generators = generators_of(dataset)
        drawn = getattr(transforms, "random_generators", ALL_GENERATORS) if transforms else ()
        self.random_generators = tuple(dict.fromkeys([*self.random_generators, *drawn]))
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
