"""The multi-layer perceptron."""

import torch
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel

from common.config.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class MLP(nn.Module):
    """Linear layers with ReLU between them; all dimensions but the first are flattened.

    Args:
        sizes: Width of the input, of each hidden layer and of the output, such as [784, 512, 512, 10].
        dropout: Probability of zeroing a hidden value.
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

    def blocks(self) -> list[nn.Module]:
        """Return the linear layers, each of which is sharded separately (``dist.strategy: fsdp``)."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def tensor_parallel_plan(self) -> dict[str, ParallelStyle]:
        """Return how the layers are divided (``dist.strategy: tp``): by columns and by rows in turn.

        An unpaired last layer is replicated. Source: Shoeybi et al., Megatron-LM (2019).
        """
        names = [f"layers.{i}" for i, layer in enumerate(self.layers) if isinstance(layer, nn.Linear)]
        pairs = zip(names[::2], names[1::2], strict=False)
        return {key: style for up, down in pairs for key, style in ((up, ColwiseParallel()), (down, RowwiseParallel()))}
