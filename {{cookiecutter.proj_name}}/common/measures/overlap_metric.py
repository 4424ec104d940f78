"""How well two areas agree: IoU and Dice."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch

from common.config.registry import METRIC_REGISTRY
from common.data.lookup import class_numbers, pick, predicted_classes
from common.log.base_metric import MeanMetric


class _Overlap(MeanMetric):
    """A measure of each image, averaged over all images.

    An image's value is the mean over the classes that are in its truth or its prediction, as torchmetrics computes it;
    1 where there is none, since nothing was rightly found.

    Args:
        num_classes: Number of classes, with the background.
        include_background: Whether class 0 counts.
        input_name: Where logits (batch, classes, H, W) or (batch, 1, H, W), and class numbers, stand.
    """

    def __init__(
        self, num_classes: int = 2, include_background: bool = False, input_name: Sequence[str] = ("logits", "mask")
    ):
        super().__init__()
        self.input_name = input_name
        self._options = {"num_classes": num_classes, "include_background": include_background, "input_format": "index"}

    @abstractmethod
    def _score(self, prediction: torch.Tensor, truth: torch.Tensor, **options: object) -> torch.Tensor:
        """Return the value of each image, NaN where there is none."""

    def measure(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return the value of each image, float32 (batch,)."""
        logits, target = pick(self.input_name, "metric", output_dict, data_dict)
        return self._score(predicted_classes(logits), class_numbers(target, logits), **self._options).nan_to_num(1.0)


@METRIC_REGISTRY.register()
class IoU(_Overlap):
    """Intersection over union, the Jaccard index: the common pixels over those in truth or prediction.

    Source: Everingham et al., The PASCAL Visual Object Classes Challenge (2010).
    """

    def _score(self, prediction: torch.Tensor, truth: torch.Tensor, **options: object) -> torch.Tensor:
        from torchmetrics.functional.segmentation import mean_iou

        return mean_iou(prediction, truth, **options)


@METRIC_REGISTRY.register()
class Dice(_Overlap):
    """The Dice coefficient: twice the common pixels over the pixels of truth and prediction together.

    Source: Dice, Measures of the amount of ecologic association between species (1945).
    """

    def _score(self, prediction: torch.Tensor, truth: torch.Tensor, **options: object) -> torch.Tensor:
        from torchmetrics.functional.segmentation import dice_score

        return dice_score(prediction, truth, average="macro", **options)
