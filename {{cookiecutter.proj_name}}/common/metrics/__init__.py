"""Measures over a whole set, on all ranks together."""

from common.metrics.base_metric import BaseMetric, MeanMetric
from common.metrics.metric_set import MetricSet
from common.metrics.torch_metric import TorchMetric

__all__ = ["BaseMetric", "MeanMetric", "MetricSet", "TorchMetric"]
