"""A data set as a config asks for it: some of its samples, transformed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from common.data.dataset import generators_of, path_of
from common.run.seed import derive_seed


class Transforms(Protocol):
    """What a ``View`` applies; random numbers come from torch's generator alone."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a transformed sample."""

    def on_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a transformed batch."""


class View(Dataset):
    """Some samples of a data set, transformed.

    Args:
        dataset: Map-style. If it returns whole batches (``__getitems__``), these are transformed at once.
        rows: The numbers of the samples in the data set. None: all.
        transforms: Applied to each sample. None: nothing.
    """

    def __init__(self, dataset: Dataset, rows: Sequence[int] | None = None, transforms: Transforms | None = None):
        self.dataset, self.transforms = dataset, transforms
        self.rows = range(len(dataset)) if rows is None else rows
        self.random_generators = generators_of(dataset)
        if transforms and "torch" not in self.random_generators:
            self.random_generators += ("torch",)
        if getattr(dataset, "__getitems__", None):
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


def draw_rows(length: int, rate: float | int, seed: int) -> list[int]:
    """Return the numbers of randomly drawn samples, in ascending order.

    Args:
        length: Number of samples in the data set.
        rate: A share of them (float, up to 1) or a number of them (int).
        seed: Seed of the draw.
    """
    count = min(length, rate if isinstance(rate, int) else round(rate * length))
    generator = torch.Generator().manual_seed(derive_seed(seed, 0, 2))
    return sorted(torch.randperm(length, generator=generator)[:count].tolist())
