"""What losses and metrics look at: entries of a batch and of a model's output, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from common.config.errors import UserError, nearest


def pick(names: Sequence[str], where: str, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> list[Any]:
    """Return what lies under each name in the outputs, or else in the batch.

    Args:
        names: The names.
        where: Who asks, for messages: ``loss.ce``.
        output_dict: The model's output.
        data_dict: The batch.

    Raises:
        UserError: A name is in neither.
    """
    found = []
    for name in names:
        if name not in output_dict and name not in data_dict:
            known = {*output_dict, *data_dict}
            raise UserError(
                f"{where}.input_name: '{name}' is neither an output nor in the batch, {nearest(name, known)}"
            )
        found.append(output_dict[name] if name in output_dict else data_dict[name])
    return found


def predicted_classes(logits: torch.Tensor) -> torch.Tensor:
    """Return the class that a model chooses, int64 (batch, ...).

    Args:
        logits: (batch, classes, ...); with one channel the second of two classes is chosen above 0.
    """
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


def class_numbers(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return a target as int64 (batch, ...), without the channel of one that a binary target may have."""
    return (target[:, 0] if target.ndim == logits.ndim else target).long()
