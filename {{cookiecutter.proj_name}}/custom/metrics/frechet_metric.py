"""How far generated images are from real ones, by the features of both."""

from __future__ import annotations

import torch
from torch import nn

from common import METRIC_REGISTRY, BaseMetric
from common.run.distributed import gather_data


@METRIC_REGISTRY.register()
class FrechetDistance(BaseMetric):
    """The Fréchet distance of two sets of features, each taken for a normal distribution: 0 where these are the same.

    Reads ``output_dict["features"]`` and ``output_dict["real_features"]``, both (batch, features). Few images raise it:
    compare only values of as many. Source: Heusel et al. (2017), where the features are those of an Inception network.
    """

    higher_is_better = False

    def __init__(self):
        self.batches: list[torch.Tensor] = []

    def reset(self) -> None:
        """Forget all batches."""
        self.batches = []

    def update(self, output_dict: dict, data_dict: dict) -> None:
        """Add a batch; it stays on the device."""
        self.batches.append(torch.stack([output_dict["features"], output_dict["real_features"]]))

    def compute(self) -> float:
        """Return the distance over all batches of all ranks; NaN for fewer than two images. Collective."""
        local = torch.cat(self.batches, 1).cpu().double() if self.batches else None
        ranks = [features for features in gather_data(local) if features is not None]
        if not ranks or (both := torch.cat(ranks, 1)).shape[1] < 2 or not both.isfinite().all():
            return float("nan")
        gap = both[0].mean(0) - both[1].mean(0)
        one, other = both[0].T.cov(), both[1].T.cov()
        shared = torch.linalg.eigvals(one @ other).real.clamp(min=0).sqrt()
        return float(gap.square().sum() + one.trace() + other.trace() - 2 * shared.sum())


def draw_and_compare(models: dict[str, nn.Module], data_dict: dict) -> dict:
    """Return a generated image for each real one, of the same class, and what the classifier sees in both."""
    generated = models["generator"](data_dict["label"])
    (features, logits), (real_features, _) = models["features"](generated), models["features"](data_dict["image"])
    return {"generated": generated, "logits": logits, "features": features, "real_features": real_features}
