"""Overlap of predicted and true areas: IoU and Dice."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from common.config.registry import METRIC_REGISTRY
from common.log.metric import MeanMetric, class_numbers, pick, predicted_classes
from common.measures.torch_metric import one_line_refusals


class _Overlap(MeanMetric):
    """A value of each image, averaged over all images.

    It is the mean over all classes in truth or prediction, as torchmetrics computes it; 1 if there are none.

    Args:
        num_classes: Number of classes, including the background.
        include_background: Whether class 0 counts.
        input_name: Names of the logits, (batch, classes, H, W) or (batch, 1, H, W), and of the class numbers.
    """

    higher_is_better = True

    def __init__(
        self, num_classes: int = 2, include_background: bool = False, input_name: Sequence[str] = ("logits", "mask")
    ):
        super().__init__()
        self.input_name = input_name
        self._options: dict[str, Any] = {
            "num_classes": num_classes,
            "include_background": include_background,
            "input_format": "index",
        }

    @abstractmethod
    def _score(self, prediction: torch.Tensor, truth: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return the value of each image, NaN if it has none of the classes."""

    def measure(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return the value of each image, float32 (batch,).

        Raises:
            UserError: torchmetrics refuses it, such as for classes from ``num_classes`` on.
        """
        logits, target = pick(self.input_name, "metric", output_dict, data_dict)
        with one_line_refusals(self):
            values = self._score(predicted_classes(logits), class_numbers(target, logits), **self._options)
        return values.nan_to_num(1.0)


@METRIC_REGISTRY.register()
class IoU(_Overlap):
    """Intersection over union, the Jaccard index: the pixels in both truth and prediction over those in either.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge (2010).
    """

    def _score(self, prediction: torch.Tensor, truth: torch.Tensor, **options: Any) -> torch.Tensor:
        from torchmetrics.functional.segmentation import mean_iou

        return mean_iou(prediction, truth, **options)


@METRIC_REGISTRY.register()
class Dice(_Overlap):
    """The Dice coefficient: twice the pixels in both truth and prediction over the sum of their sizes.

    Source: Dice, Measures of the amount of ecologic association between species (1945).
    """

    def _score(self, prediction: torch.Tensor, truth: torch.Tensor, **options: Any) -> torch.Tensor:
        from torchmetrics.functional.segmentation import dice_score

        return dice_score(prediction, truth, average="macro", **options)
