"""Share of samples whose class is found."""

from __future__ import annotations

import torch

from common import METRIC_REGISTRY, MeanMetric, UserError


@METRIC_REGISTRY.register()
class Accuracy(MeanMetric):
    """Share of samples whose label is among the ``top`` largest logits.

    Reads ``output_dict["logits"]`` (batch, classes) and ``data_dict["label"]`` (batch,), int64.

    Args:
        top: How many guesses a sample has, at most as many as there are classes.

    Raises:
        ValueError: ``top`` is below 1.
    """

    higher_is_better = True

    def __init__(self, top: int = 1):
        super().__init__()
        if top < 1:
            raise ValueError(f"top must be at least 1, found {top}")
        self.top = top

    def measure(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return whether each sample is right, bool (batch,).

        Raises:
            UserError: There are fewer classes than ``top``.
        """
        logits = output_dict["logits"]
        if self.top > logits.shape[1]:
            raise UserError(f"metric: Accuracy.top: expected at most {logits.shape[1]} classes, found {self.top}")
        guesses = logits.topk(self.top, dim=1).indices
        return (guesses == data_dict["label"].unsqueeze(1)).any(dim=1)
