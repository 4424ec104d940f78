"""Base classes of metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from common.run.distributed import gather_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class BaseMetric(ABC):
    """A measure over a whole set, each sample counted once, on all ranks together."""

    @abstractmethod
    def reset(self) -> None:
        """Forget what was seen."""

    @abstractmethod
    def update(self, output_dict: dict, data_dict: dict) -> None:
        """Take in a batch."""

    @abstractmethod
    def compute(self) -> float:
        """Return the value over all that was seen. Collective."""

    def draw(self) -> Figure | None:
        """Return a picture of what ``compute`` found last, if there is more to see than a number."""
        return None


class MeanMetric(BaseMetric):
    """A mean over all samples of something that each sample has, such as being right: implement ``measure``."""

    def __init__(self):
        self._sums: list[torch.Tensor] = []
        self._count = 0

    @abstractmethod
    def measure(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return the value of each sample in the batch, shape (batch,), any numeric or boolean dtype."""

    def reset(self) -> None:
        """Forget what was seen."""
        self._sums, self._count = [], 0

    def update(self, output_dict: dict, data_dict: dict) -> None:
        """Take in a batch; the sum stays on the device."""
        values = self.measure(output_dict, data_dict)
        self._sums.append(values.sum())
        self._count += len(values)

    def compute(self) -> float:
        """Return the sum over all samples of all ranks, divided by their number; NaN for an empty set. Collective."""
        local = torch.stack(self._sums).cpu().double().sum().item() if self._sums else 0.0
        sums, counts = zip(*gather_data((local, self._count)), strict=True)
        return sum(sums) / sum(counts) if sum(counts) else float("nan")
