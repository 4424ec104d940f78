"""A data set as a config wants it: some of its samples, transformed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from common.data.dataset import ArrayDataset
from common.run.seed import derive_seed
from common.vision.pipeline import Pipeline


class View(Dataset):
    """Some samples of a data set, each as its transforms leave it.

    Args:
        dataset: Map-style. If it gives whole batches (``__getitems__``), these are transformed as such.
        rows: Which samples, by their numbers in the set. None: all.
        transforms: What to do to each. None: nothing.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[int] | None = None, transforms: Pipeline | None = None):
        self.dataset, self.rows, self.transforms = dataset, range(len(dataset)) if rows is None else rows, transforms
        if hasattr(dataset, "__getitems__"):
            self.__getitems__ = self._read_batch

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a sample."""
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


def path_of(dataset: Dataset, index: int) -> Any:
    """Return the file of a sample, if the data set has ``path(index)`` to tell it."""
    find = getattr(dataset, "path", None)
    return find(index) if find else None


def draw_rows(length: int, rate: float | int, seed: int) -> list[int]:
    """Return the numbers of some samples, drawn by a seed, in the order of the set.

    Args:
        length: Samples in the set.
        rate: A share of them (float, up to 1) or a number of them (int).
        seed: Seed of the draw.
    """
    count = min(length, rate if isinstance(rate, int) else round(rate * length))
    generator = torch.Generator().manual_seed(derive_seed(seed, 0, 2))
    return sorted(torch.randperm(length, generator=generator)[:count].tolist())


def draws_random_numbers(dataset: Dataset) -> bool:
    """Return whether reading a sample may draw random numbers; a plain row of a tensor, as it stands, needs none."""
    if isinstance(dataset, View):
        return dataset.transforms is not None or draws_random_numbers(dataset.dataset)
    return getattr(type(dataset), "__getitems__", None) is not ArrayDataset.__getitems__
