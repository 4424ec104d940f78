"""The peak signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from common.config.registry import METRIC_REGISTRY
from common.log.metric import MeanMetric, pick
from common.measures.torch_metric import one_line_refusals


@METRIC_REGISTRY.register()
class PSNR(MeanMetric):
    """The peak signal-to-noise ratio of each image in dB, averaged, as torchmetrics computes it.

    Infinite for an image without error. Source: Huynh-Thu and Ghanbari, Scope of validity of PSNR (2008).

    Args:
        data_range: Difference between the largest and the smallest possible value.
        input_name: Names of the prediction and of the truth, both (batch, ...), float.
    """

    higher_is_better = True

    def __init__(self, data_range: float = 1.0, input_name: Sequence[str] = ("image_pred", "image")):
        from torchmetrics.functional.image import peak_signal_noise_ratio

        super().__init__()
        self.data_range, self.input_name, self._ratio = data_range, input_name, peak_signal_noise_ratio

    def measure(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return the value of each image, (batch,).

        Raises:
            UserError: torchmetrics refuses it, such as for different shapes.
        """
        prediction, truth = pick(self.input_name, "metric", output_dict, data_dict)
        axes = tuple(range(1, truth.ndim))
        with one_line_refusals(self):
            return self._ratio(prediction, truth, data_range=self.data_range, dim=axes, reduction="none")
