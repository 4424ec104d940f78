"""The F1 score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from common.config.registry import METRIC_REGISTRY
from common.measures.torch_metric import TorchMetric


@METRIC_REGISTRY.register()
class F1(TorchMetric):
    """The harmonic mean of precision and recall (van Rijsbergen, 1979), as torchmetrics computes it.

    Args:
        num_classes: Number of classes.
        average: ``macro``: the mean over the classes; ``weighted``: by their samples; ``micro``: over all samples.
        input_name: Names of the logits (batch, classes, ...) and of the class numbers (batch, ...).
    """

    def __init__(
        self,
        num_classes: int,
        average: Literal["macro", "weighted", "micro"] = "macro",
        input_name: Sequence[str] = ("logits", "label"),
    ):
        from torchmetrics.classification import MulticlassF1Score

        super().__init__(MulticlassF1Score(num_classes, average=average), input_name)
