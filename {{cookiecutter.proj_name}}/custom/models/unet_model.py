"""UNet."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common import MODEL_REGISTRY
from common.vision.model import BaseModel


class ConvBlock(nn.Sequential):
    """Two 3 x 3 convolutions, each with batch-norm and ReLU, that keep the size.

    Args:
        channels: Channels of the input.
        width: Channels of the output.
    """

    def __init__(self, channels: int, width: int):
        layers = []
        for given in (channels, width):
            layers += [nn.Conv2d(given, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        super().__init__(*layers)


def join(*features: torch.Tensor) -> torch.Tensor:
    """Return features (batch, channels, H, W) side by side, the last enlarged to the others' size, which may be odd."""
    *skips, below = features
    above = functional.interpolate(below, size=skips[0].shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([*skips, above], dim=1)


@MODEL_REGISTRY.register()
class UNet(BaseModel):
    """An encoder, and a decoder that sees the encoder's features of each size again.

    Source: Ronneberger et al., U-Net (2015); here with batch-norm, padding, and bilinear enlargement.

    Args:
        in_channels: Channels of the images.
        num_classes: Channels of the output; 1 for one class against the background.
        width: Channels at full size; they double with each halving of the size.
        depth: How often the size is halved; images have at least 2^depth pixels a side.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 1, width: int = 32, depth: int = 4):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(map(ConvBlock, [in_channels, *widths[:-1]], widths))
        joined = [small + large for small, large in zip(widths[:-1], widths[1:], strict=True)]
        self.decoder = nn.ModuleList(map(ConvBlock, joined, widths[:-1]))
        self.head = nn.Conv2d(width, num_classes, 1)
        self.start()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes, H, W) from images (batch, in_channels, H, W) of any size."""
        x, skips = self.encoder[0](image), []
        for block in self.encoder[1:]:
            skips.append(x)
            x = block(functional.max_pool2d(x, 2))
        for block, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            x = block(join(skip, x))
        return self.head(x)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks, each sharded (``dist.strategy``: fsdp) or recomputed by itself."""
        return [*self.encoder, *self.decoder]
