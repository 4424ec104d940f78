"""A small GPT."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common import MODEL_REGISTRY
from common.text.transformer import Block, Cache, TransformerModel


@MODEL_REGISTRY.register()
class GPT(TransformerModel):
    """A transformer that predicts the next token; its last layer is the embedding of the tokens, transposed.

    Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019).

    Args:
        vocab_size: Number of tokens.
        context: The most tokens that it sees.
        width: Features of a token.
        depth: Number of blocks.
        heads: Heads of each attention; they divide the width.
        dropout: Probability of zeroing a feature, for small data sets.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        context: int = 256,
        width: int = 192,
        depth: int = 4,
        heads: int = 6,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.context = context
        self.embedding, self.position = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)
        self.start()

    def forward(self, tokens: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
        """Return logits (batch, time, vocab_size) from tokens (batch, time), int64; with a cache, the next tokens."""
        x = self.dropout(self.embedding(tokens) + self.position.weight[self.place(tokens, cache)])
        for i, block in enumerate(self.layers):
            x = block(x, cache.layers[i] if cache else None)
        return functional.linear(self.norm(x), self.embedding.weight)
