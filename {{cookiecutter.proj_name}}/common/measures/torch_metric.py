"""Metrics of torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from common.data.lookup import class_numbers, pick, predicted_classes
from common.log.base_metric import BaseMetric
from common.run.distributed import gather_data, is_distributed

if TYPE_CHECKING:
    from torchmetrics import Metric


class TorchMetric(BaseMetric):
    """A metric that torchmetrics keeps, over the whole set on all ranks together.

    Its inputs are the class that is chosen and the true one; where a metric takes others, override ``inputs``.

    Import torchmetrics where you build the metric, within ``__init__``: it takes a second, which a run without such a
    metric need not wait.

    Args:
        metric: A metric of torchmetrics.
        input_name: Where logits (batch, classes, ...) and class numbers (batch, ...) stand.
    """

    def __init__(self, metric: Metric, input_name: Sequence[str] = ("logits", "label")):
        metric.distributed_available_fn = is_distributed
        metric.dist_sync_fn = _gather
        self.metric, self.input_name = metric, input_name

    def inputs(self, output_dict: dict, data_dict: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Return prediction and truth of a batch, as the metric takes them."""
        logits, target = pick(self.input_name, "metric", output_dict, data_dict)
        return predicted_classes(logits), class_numbers(target, logits)

    def reset(self) -> None:
        """Forget what was seen."""
        self.metric.reset()

    def update(self, output_dict: dict, data_dict: dict) -> None:
        """Take in a batch; what is counted stays on the device."""
        prediction, truth = self.inputs(output_dict, data_dict)
        self.metric.to(prediction.device).update(prediction, truth)

    def compute(self) -> float:
        """Return the value over all that was seen. Collective."""
        return float(self.metric.compute())


def _gather(state: torch.Tensor, group: object = None) -> list[torch.Tensor]:
    """Return a state of each part of the data, in order; those of ranks that share a part count once."""
    return [part.to(state.device) for part in gather_data(state.cpu())]
