"""UNet++."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common import MODEL_REGISTRY
from common.vision.model import BaseModel
from custom.models.unet_model import ConvBlock, join


@MODEL_REGISTRY.register()
class UNetPlusPlus(BaseModel):
    """A UNet whose shortcuts are rows of convolutions: each sees all those before it, and the one below the last.

    Source: Zhou et al., UNet++ (2018); here with bilinear enlargement.

    Args:
        in_channels: Channels of the images.
        num_classes: Channels of the output; 1 for one class against the background.
        width: Channels at full size; they double with each halving of the size.
        depth: How often the size is halved; images have at least 2^depth pixels a side.
        deep_supervision: Return the mean of the outputs of all full-size nodes, not the last one's alone.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        width: int = 32,
        depth: int = 4,
        deep_supervision: bool = False,
    ):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(map(ConvBlock, [in_channels, *widths[:-1]], widths))
        self.nodes = nn.ModuleList(
            nn.ModuleList(ConvBlock(j * widths[i] + widths[i + 1], widths[i]) for i in range(depth + 1 - j))
            for j in range(1, depth + 1)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in range(depth if deep_supervision else 1))
        self.start()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, num_classes, H, W) from images (batch, in_channels, H, W) of any size."""
        rows = [[self.encoder[0](image)]]
        for block in self.encoder[1:]:
            rows.append([block(functional.max_pool2d(rows[-1][0], 2))])
        for column in self.nodes:
            below = [row[-1] for row in rows]
            for i, node in enumerate(column.children()):
                rows[i].append(node(join(*rows[i], below[i + 1])))
        outputs = [head(x) for head, x in zip(self.heads, rows[0][-len(self.heads) :], strict=True)]
        return torch.stack(outputs).mean(dim=0)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks, each sharded (``dist.strategy``: fsdp) or recomputed by itself."""
        return [*self.encoder, *(node for column in self.nodes for node in column.children())]
