"""The blocks of a transformer that predicts the next token, what its model has, and the cache that generation reads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from common.config.errors import UserError


class LayerCache:
    """The keys and values of one layer for the tokens read so far, up to ``context``."""

    def __init__(self, context: int):
        self.context, self.length = context, 0

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add those of the next tokens, (batch, heads, tokens, size) each, and return all so far, without a copy."""
        if self.length == 0:
            shape = (*keys.shape[:2], self.context, keys.shape[3])
            self._keys, self._values = keys.new_empty(shape), values.new_empty(shape)
        elif keys.shape[2] != 1:
            raise ValueError(f"expected one token after the first call, found {keys.shape[2]}")
        end = self.length + keys.shape[2]
        self._keys[:, :, self.length : end], self._values[:, :, self.length : end] = keys, values
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class Cache:
    """The keys and values of all layers: a call of the model that is given one reads only the tokens that are new.

    The first call may read several tokens, each later one reads one.
    """

    def __init__(self, layers: int, context: int):
        self.layers = [LayerCache(context) for _ in range(layers)]

    @property
    def length(self) -> int:
        """The number of tokens read."""
        return self.layers[0].length


class CausalAttention(nn.Module):
    """Attention of each token to itself and those before it, by several heads.

    The rows of ``qkv`` are in the order of heads, so that tensor parallelism divides it into whole heads.

    Args:
        width: Features of a token.
        heads: Their number; it divides the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(f"heads must divide width, found {heads} and {width}")
        self.size = width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, cache: LayerCache | None = None) -> torch.Tensor:
        """Return (batch, tokens, width) from (batch, tokens, width)."""
        qkv = self.qkv(x)
        if qkv.shape[-1] % (3 * self.size):
            raise UserError("model.heads: expected a multiple of the processes that divide a layer (dist.tp_size)")
        # Taken apart before they are transposed, the gradients come together again without a copy.
        q, k, v = (one.transpose(1, 2) for one in qkv.unflatten(-1, (-1, 3, self.size)).unbind(3))
        if cache is not None:
            k, v = cache.extend(k, v)
        x = functional.scaled_dot_product_attention(q, k, v, is_causal=bool(q.shape[2] > 1))
        return self.out(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a layer that sees each token alone, both behind a norm and beside a shortcut.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019).

    Args:
        width: Features of a token.
        heads: Heads of the attention; they divide the width.
        dropout: Probability of zeroing a feature that joins the shortcut.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), CausalAttention(width, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, cache: LayerCache | None = None) -> torch.Tensor:
        """Return (batch, tokens, width) from (batch, tokens, width)."""
        x = x + self.dropout(self.attention(self.norm1(x), cache))
        return x + self.dropout(self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh")))


class TransformerModel(nn.Module):
    """A model of ``layers``, its blocks, that sees ``context`` tokens. Call ``start`` at the end of your ``__init__``.

    ``forward`` takes tokens (batch, time), int64, and perhaps a ``Cache``; it returns logits (batch, time, tokens).
    """

    context: int
    layers: nn.ModuleList

    def start(self) -> None:
        """Initialize the weights: small, and what the blocks add to the shortcut the smaller the more blocks there are.

        Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019).

        Raises:
            ValueError: There is no block, or no context.
        """
        if not self.layers or self.context < 1:
            raise ValueError(f"depth and context must be at least 1, found {len(self.layers)} and {self.context}")
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                joins = name.endswith((".out.weight", ".down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * len(self.layers)) if joins else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def place(self, tokens: torch.Tensor, cache: Cache | None) -> slice:
        """Return the places of tokens (batch, time) in the context; raise a UserError if they are too many."""
        first = cache.length if cache else 0
        end = first + tokens.shape[1]
        if end > self.context:
            raise UserError(f"model.context: {self.context} tokens, but a block of the data set has {end}")
        return slice(first, end)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks, each sharded (``dist.strategy``: fsdp) or recomputed by itself."""
        return list(self.layers)

    def tensor_parallel_plan(self) -> dict[str, Any]:
        """Return how the layers of the blocks are divided (``dist.strategy``: tp).

        Source: Shoeybi et al., Megatron-LM (2019).
        """
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

        plan: dict[str, Any] = {f"layers.*.{name}": ColwiseParallel() for name in ("attention.qkv", "up")}
        return plan | {f"layers.*.{name}": RowwiseParallel() for name in ("attention.out", "down")}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: weights with weight decay, biases and norms without."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
