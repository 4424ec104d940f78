"""A generator of images, and the critic that judges them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import one_hot

from common import MODEL_REGISTRY, UserError


@MODEL_REGISTRY.register()
class Generator(nn.Module):
    """Draws images of given classes from ``noise`` random numbers: 4 by 4 pixels, doubled until they have ``size``.

    It has no batch norm, which would join the images of a batch, and differ between the processes of a run.
    """

    def __init__(self, classes: int = 10, noise: int = 64, width: int = 32, size: int = 8, channels: int = 1):
        super().__init__()
        self.classes, self.noise = classes, noise
        layers: list[nn.Module] = [nn.Linear(noise + classes, 8 * width), nn.ReLU(), nn.Linear(8 * width, 16 * width)]
        layers += [nn.ReLU(), nn.Unflatten(1, (width, 4, 4))]
        for _ in range(count_halvings(size) - 1):
            layers += [nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), nn.Sigmoid())

    def forward(self, label: torch.Tensor) -> torch.Tensor:
        """Return an image of each class in ``label`` (batch,): (batch, channels, size, size) in [0, 1]."""
        noise = torch.randn(len(label), self.noise, device=label.device)
        return self.layers(torch.cat([noise, one_hot(label, self.classes)], dim=1))


@MODEL_REGISTRY.register()
class Critic(nn.Module):
    """Gives an image a score: the larger, the more it looks like a real one of its class. No batch norm, either."""

    def __init__(self, classes: int = 10, width: int = 32, size: int = 8, channels: int = 1):
        super().__init__()
        self.classes, self.shape = classes, (channels, size, size)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(count_halvings(size) - 1):
            layers += [nn.Conv2d(width, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers, joined = nn.Sequential(*layers, nn.Flatten()), nn.Linear(16 * width + classes, 8 * width)
        self.head = nn.Sequential(joined, nn.LeakyReLU(0.2), nn.Linear(8 * width, 1))

    def forward(self, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return scores (batch, 1) of images (batch, channels, size, size) in [0, 1] of the classes (batch,)."""
        if image.shape[1:] != self.shape:
            raise UserError(f"model.critic: takes images {self.shape}, found {tuple(image.shape[1:])}")
        return self.head(torch.cat([self.layers(image), one_hot(label, self.classes)], dim=1))


def count_halvings(size: int) -> int:
    """Return how often ``size`` pixels are halved to 4; raise a ValueError unless it is a power of two from 8 on."""
    if size < 8 or size.bit_count() != 1:
        raise ValueError(f"size must be a power of two from 8 on, found {size}")
    return size.bit_length() - 3
