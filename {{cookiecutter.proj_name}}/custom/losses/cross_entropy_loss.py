"""Cross-entropy between logits and labels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from common import LOSS_REGISTRY


@LOSS_REGISTRY.register()
class CrossEntropy(nn.Module):
    """The mean cross-entropy of ``output_dict["logits"]`` (batch, classes) and ``data_dict["label"]`` (batch,), int64.

    Args:
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al., 2016).

    Raises:
        ValueError: ``label_smoothing`` is not from 0 to 1.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, found {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return a scalar."""
        return functional.cross_entropy(output_dict["logits"], data_dict["label"], label_smoothing=self.label_smoothing)
