"""Metrics over a whole set, on all ranks together, and all metrics of a config at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from common.run.distributed import gather_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class BaseMetric(ABC):
    """A metric over a whole set that counts each sample once, on all ranks together."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches."""

    @abstractmethod
    def update(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> None:
        """Add a batch."""

    @abstractmethod
    def compute(self) -> float:
        """Return the value over all batches since the last reset. Collective."""

    def draw(self) -> Figure | None:
        """Return a figure of what ``compute`` found last, or None if the number says it all."""
        return None


class MeanMetric(BaseMetric):
    """The mean over all samples of a value that each sample has, such as being right: implement ``measure``."""

    def __init__(self):
        self.reset()

    @abstractmethod
    def measure(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> torch.Tensor:
        """Return the value of each sample in the batch, (batch,), any numeric or boolean dtype."""

    def reset(self) -> None:
        """Forget all batches."""
        self._sums: list[torch.Tensor] = []
        self._count = 0

    def update(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> None:
        """Add a batch; its sum stays on the device."""
        values = self.measure(output_dict, data_dict)
        self._sums.append(values.sum())
        self._count += values.shape[0]

    def compute(self) -> float:
        """Return the mean over all samples of all ranks; NaN for an empty set. Collective."""
        local = torch.stack(self._sums).cpu().double().sum().item() if self._sums else 0.0
        sums, counts = zip(*gather_data((local, self._count)), strict=True)
        return sum(sums) / sum(counts) if sum(counts) else float("nan")


class MetricSet:
    """Named metrics that are reset, updated and computed together."""

    def __init__(self, metrics: Mapping[str, BaseMetric]):
        self._metrics = metrics

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self._metrics.values():
            metric.reset()

    def update(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> None:
        """Add a batch."""
        for metric in self._metrics.values():
            metric.update(output_dict, data_dict)

    def compute(self) -> dict[str, float]:
        """Return each metric's value by name. Collective."""
        return {name: metric.compute() for name, metric in self._metrics.items()}

    def draw(self) -> dict[str, Figure]:
        """Return the figures of the metrics that have one, by name."""
        figures = {name: metric.draw() for name, metric in self._metrics.items()}
        return {name: figure for name, figure in figures.items() if figure is not None}

    def of_sample(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return each ``MeanMetric``'s value, a scalar, for one sample: entries have no batch dimension."""
        output, data = _as_batch(output_dict), _as_batch(data_dict)
        means = {name: metric for name, metric in self._metrics.items() if isinstance(metric, MeanMetric)}
        return {name: metric.measure(output, data)[0].float() for name, metric in means.items()}


def _as_batch(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: value[None] if isinstance(value, torch.Tensor) else value for name, value in sample.items()}
