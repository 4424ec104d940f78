"""The multi-layer perceptron."""

from __future__ import annotations

import torch
from torch import nn

from common.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class MLP(nn.Module):
    """Linear layers with ReLU between them; anything behind the batch dimension is flattened first.

    Args:
        sizes: Width of the input, of each hidden layer and of the output, such as [784, 512, 512, 10].
        dropout: Probability of dropping a hidden value.
    """

    def __init__(self, sizes: list[int], dropout: float = 0.0):
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width, following in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(width, following), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers[: -2 if dropout else -1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, sizes[-1]) from (batch, ...) with sizes[0] values a sample."""
        return self.layers(x)
