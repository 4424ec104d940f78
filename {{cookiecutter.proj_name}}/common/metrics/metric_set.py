"""All metrics of a config at once."""

from __future__ import annotations

from common.metrics.base_metric import BaseMetric


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
