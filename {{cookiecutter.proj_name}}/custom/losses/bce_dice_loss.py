"""Binary cross-entropy and Dice together."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common import LOSS_REGISTRY
from common.measures.dice_loss import DiceLoss


@LOSS_REGISTRY.register()
class BCEDice(nn.Module):
    """Binary cross-entropy, which is sure of each pixel, and Dice, which sees the whole area, however small.

    Reads ``output_dict["logits"]`` (batch, 1, H, W) and ``data_dict["mask"]`` (batch, 1, H, W), float in [0, 1].
    Source: Isensee et al., nnU-Net (2021).

    Args:
        dice_share: Share of Dice in the loss, in [0, 1].
    """

    def __init__(self, dice_share: float = 0.5):
        super().__init__()
        self.dice_share, self.dice = dice_share, DiceLoss()

    def forward(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return a scalar."""
        logits, mask = output_dict["logits"], data_dict["mask"]
        bce = functional.binary_cross_entropy_with_logits(logits, mask)
        return (1 - self.dice_share) * bce + self.dice_share * self.dice(logits, mask)
