"""The Dice loss."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common.config.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class DiceLoss(nn.Module):
    """One minus the Dice coefficient of target and predicted probabilities, averaged over images and classes.

    Source: Milletari et al., V-Net (2016), with sums of the values instead of their squares.

    Args:
        smooth: Added to numerator and denominator, in pixels, so that an empty prediction of an empty mask has no loss.
    """

    def __init__(self, smooth: float = 1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return a scalar in [0, 1].

        Args:
            logits: (batch, 1, ...) for one class against the background, or (batch, classes, ...).
            target: For one class values in [0, 1], with or without the channel; otherwise int64 (batch, ...).
        """
        if logits.shape[1] == 1:
            p, truth = logits.sigmoid(), target.reshape(logits.shape).to(logits.dtype)
        else:
            p = logits.softmax(dim=1)
            truth = functional.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        p, truth = p.flatten(2), truth.flatten(2)
        overlap, sizes = (p * truth).sum(2), p.sum(2) + truth.sum(2)
        return 1 - ((2 * overlap + self.smooth) / (sizes + self.smooth)).mean()
