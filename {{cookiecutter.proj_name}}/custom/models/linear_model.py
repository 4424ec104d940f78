"""One linear layer: the place where your model goes."""

from __future__ import annotations

import torch
from torch import nn

from common import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class LinearModel(nn.Module):
    """One linear layer over all values of an image.

    Args:
        in_features: Values of an image: channels x height x width.
        num_classes: Number of classes.
    """

    def __init__(self, in_features: int = 64, num_classes: int = 10):
        super().__init__()
        self.layer = nn.Linear(in_features, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes) from images (batch, channels, H, W)."""
        return self.layer(image.flatten(1))
