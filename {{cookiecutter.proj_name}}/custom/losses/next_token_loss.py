"""Cross-entropy of the next token."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class NextToken(nn.Module):
    """The mean cross-entropy of ``output_dict["logits"]`` (batch, time, tokens) and ``data_dict["target"]``, in nats.

    The target is int64 (batch, time); where it is -100, nothing is predicted.
    """

    def forward(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return a scalar."""
        return functional.cross_entropy(output_dict["logits"].flatten(0, 1), data_dict["target"].flatten())
