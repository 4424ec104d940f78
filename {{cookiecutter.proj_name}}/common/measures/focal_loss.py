"""The focal loss."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common.config.registry import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class FocalLoss(nn.Module):
    """The cross-entropy times (1 - p)^gamma, where p is the probability of the true class: easy samples weigh less.

    Source: Lin et al., Focal Loss for Dense Object Detection (2017).

    Args:
        gamma: The exponent; 0 is the cross-entropy.
        alpha: Weight of every class but class 0, which has 1 - alpha; in [0, 1]. None: all classes have weight 1.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return a scalar, the mean over all elements.

        Args:
            logits: (batch, 1, ...) for a binary target, or (batch, classes, ...).
            target: If binary, values in [0, 1], with or without the channel; otherwise int64 (batch, ...).
        """
        if logits.shape[1] == 1:
            target = target.reshape(logits.shape).to(logits.dtype)
            loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        else:
            loss = functional.cross_entropy(logits, target, reduction="none")
        focal = (-torch.expm1(-loss)) ** self.gamma * loss
        if self.alpha is not None:
            focal = focal * torch.where(target > 0.5, self.alpha, 1 - self.alpha)
        return focal.mean()
