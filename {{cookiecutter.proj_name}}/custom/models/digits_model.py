"""A small convolutional network for 8 by 8 images."""

from __future__ import annotations

import torch
from torch import nn

from common import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class DigitsModel(nn.Module):
    """Two convolutions and a linear layer.

    Args:
        width: Channels of the first convolution; the second has twice as many.
        num_classes: Number of classes.
        dropout: Probability of dropping a feature before the linear layer.

    Raises:
        ValueError: ``width`` is below 1, or ``dropout`` is no probability.
    """

    def __init__(self, width: int = 16, num_classes: int = 10, dropout: float = 0.2):
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, found {width}")
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(2 * width * 4 * 4, num_classes))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes) from images (batch, 1, 8, 8) in [0, 1]."""
        return self.classifier(self.features(image))
