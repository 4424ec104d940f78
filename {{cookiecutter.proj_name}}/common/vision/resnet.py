"""Residual networks."""

import torch
from torch import nn

from common.config.registry import MODEL_REGISTRY
from common.vision.model import BaseModel


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions of the same width and a shortcut; the first has the stride."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, width, H / stride, W / stride) from (batch, channels, H, W)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two 1 x 1 ones, and a shortcut; the output has four times the width.

    The 3 x 3 convolution has the stride, as in torchvision and in Goyal et al. (2017).
    """

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, 4 * width, H / stride, W / stride) from (batch, channels, H, W)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


_KINDS = {18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)), 50: (Bottleneck, (3, 4, 6, 3))}


@MODEL_REGISTRY.register()
class ResNet(BaseModel):
    """A residual network for classification; its weights have the same names as in torchvision and timm.

    Source: He et al., Deep Residual Learning for Image Recognition (2016).

    Args:
        depth: 18, 34 or 50.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        small_images: Begin with a 3 x 3 convolution that keeps the size, for images of about 32 pixels, instead of
            7 x 7 and pooling, which divide it by four.
        weights: Initial weights: a file, ``torchvision:<name>`` or ``timm:<name>``; a layer that does not fit, such as
            the classifier for other classes, is logged and initialized at random.

    Raises:
        ValueError: Another depth.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 1000,
        in_channels: int = 3,
        small_images: bool = False,
        weights: str | None = None,
    ):
        super().__init__()
        if depth not in _KINDS:
            raise ValueError(f"depth must be one of {', '.join(map(str, _KINDS))}, found {depth}")
        block, counts = _KINDS[depth]
        self.conv1 = nn.Conv2d(in_channels, 64, *((3, 1, 1) if small_images else (7, 2, 3)), bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        channels = 64
        for i, count in enumerate(counts):
            width, stage = 64 * 2**i, []
            for j in range(count):
                stage.append(block(channels, width, 2 if i > 0 and j == 0 else 1))
                channels = width * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(channels, num_classes)
        self.start(weights)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes) from images (batch, in_channels, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))

    def blocks(self) -> list[nn.Module]:
        """Return the residual blocks, each of which is sharded (``dist.strategy: fsdp``) or recomputed separately."""
        return [block for stage in (self.layer1, self.layer2, self.layer3, self.layer4) for block in stage]


def _projection(channels: int, new_channels: int, stride: int) -> nn.Sequential | None:
    """Return the shortcut of a block that changes the shape; None if the input is added as it is."""
    if stride == 1 and channels == new_channels:
        return None
    return nn.Sequential(nn.Conv2d(channels, new_channels, 1, stride, bias=False), nn.BatchNorm2d(new_channels))
