"""Loss terms and their weighted sum."""

from common.losses.loss_set import LossSet

__all__ = ["LossSet"]
