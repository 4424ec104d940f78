"""Metrics from torchmetrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from common.config.errors import UserError, one_line
from common.log.metric import BaseMetric, class_numbers, pick, predicted_classes
from common.run.distributed import gather_data, is_distributed

if TYPE_CHECKING:
    from torchmetrics import Metric


class TorchMetric(BaseMetric):
    """A torchmetrics metric over the whole set, on all ranks together.

    It is given predicted and true classes; override ``inputs`` for a metric that takes something else. Import
    torchmetrics within ``__init__``, because that takes a second, which other runs should not have to wait.

    Args:
        metric: The metric.
        input_name: Names of the logits (batch, classes, ...) and of the class numbers (batch, ...).
    """

    def __init__(self, metric: Metric, input_name: Sequence[str] = ("logits", "label")):
        metric.distributed_available_fn = is_distributed
        metric.dist_sync_fn = _gather
        self.metric, self.input_name = metric, input_name
        self.higher_is_better = metric.higher_is_better

    def inputs(self, output_dict: dict, data_dict: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Return prediction and truth of a batch, as the metric expects them."""
        logits, target = pick(self.input_name, "metric", output_dict, data_dict)
        return predicted_classes(logits), class_numbers(target, logits)

    def reset(self) -> None:
        """Forget what was seen."""
        self.metric.reset()

    def update(self, output_dict: dict, data_dict: dict) -> None:
        """Take in a batch; the counts stay on the device.

        Raises:
            UserError: torchmetrics refuses it, such as for classes from ``num_classes`` on.
        """
        prediction, truth = self.inputs(output_dict, data_dict)
        with one_line_refusals(self):
            self.metric.to(prediction.device).update(prediction, truth)

    def compute(self) -> float:
        """Return the value over everything seen since the last reset. Collective."""
        return float(self.metric.compute())


@contextmanager
def one_line_refusals(metric: BaseMetric) -> Iterator[None]:
    """Turn what torchmetrics refuses into a UserError that names the metric."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        raise UserError(f"metric: {type(metric).__name__}: {one_line(error)}") from error


def _gather(state: torch.Tensor, group: object = None) -> list[torch.Tensor]:
    """Return the state of each part of the data; ranks that hold the same part count once."""
    return [part.to(state.device) for part in gather_data(state.cpu())]
