"""All metrics of a config at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from common.log.base_metric import BaseMetric, MeanMetric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MetricSet:
    """Named metrics that are reset, updated and computed together.

    Args:
        metrics: Name → metric.
    """

    def __init__(self, metrics: dict[str, BaseMetric]):
        self._metrics = metrics

    def reset(self) -> None:
        """Forget what was seen."""
        for metric in self._metrics.values():
            metric.reset()

    def update(self, output_dict: dict, data_dict: dict) -> None:
        """Take in a batch."""
        for metric in self._metrics.values():
            metric.update(output_dict, data_dict)

    def compute(self) -> dict[str, float]:
        """Return each metric's value over all that was seen, by name. Collective."""
        return {name: metric.compute() for name, metric in self._metrics.items()}

    def draw(self) -> dict[str, Figure]:
        """Return the pictures of those metrics that have one, by name."""
        figures = {name: metric.draw() for name, metric in self._metrics.items()}
        return {name: figure for name, figure in figures.items() if figure is not None}

    def of_sample(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return the value for one sample of each metric that has such, a scalar each.

        Args:
            output_dict: The model's output for the sample, without the dimension of the batch.
            data_dict: The sample.
        """
        output, data = (
            {key: value[None] if isinstance(value, torch.Tensor) else value for key, value in entries.items()}
            for entries in (output_dict, data_dict)
        )
        means = {name: metric for name, metric in self._metrics.items() if isinstance(metric, MeanMetric)}
        return {name: metric.measure(output, data)[0].float() for name, metric in means.items()}
