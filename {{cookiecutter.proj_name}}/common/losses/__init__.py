"""Loss terms and their weighted sum."""

from common.losses.dice_loss import DiceLoss
from common.losses.focal_loss import FocalLoss
from common.losses.loss_set import LossSet

__all__ = ["DiceLoss", "FocalLoss", "LossSet"]
