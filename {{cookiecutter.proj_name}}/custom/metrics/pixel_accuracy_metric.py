"""Share of pixels whose class is found."""

from __future__ import annotations

import torch

from common import METRIC_REGISTRY, MeanMetric


@METRIC_REGISTRY.register()
class PixelAccuracy(MeanMetric):
    """Share of an image's pixels that are rightly in or out of the mask, averaged over all images.

    Reads ``output_dict["logits"]`` (batch, 1, H, W) and ``data_dict["mask"]`` (batch, 1, H, W), float.
    """

    higher_is_better = True

    def measure(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return the share of each image, float32 (batch,)."""
        right = (output_dict["logits"] > 0) == (data_dict["mask"] > 0.5)
        return right.float().mean((1, 2, 3))
