"""The Dice loss."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common.config.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class DiceLoss(nn.Module):
    """One minus the overlap of truth and soft prediction: the Dice coefficient of each image and class, averaged.

    Source: Milletari et al., V-Net (2016), with the sums of the values, not of their squares.

    Args:
        smooth: Added to both sides of the quotient, in pixels: an empty mask that is found empty then costs nothing.
    """

    def __init__(self, smooth: float = 1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return a scalar in [0, 1].

        Args:
            logits: (batch, 1, ...) of one class against the background, or (batch, classes, ...).
            target: In the first case in [0, 1], of the same shape or without the channel; else int64 (batch, ...).
        """
        if logits.shape[1] == 1:
            p, truth = logits.sigmoid(), target.reshape(logits.shape).to(logits.dtype)
        else:
            p = logits.softmax(dim=1)
            truth = functional.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        p, truth = p.flatten(2), truth.flatten(2)
        overlap, sizes = (p * truth).sum(2), p.sum(2) + truth.sum(2)
        return 1 - ((2 * overlap + self.smooth) / (sizes + self.smooth)).mean()
