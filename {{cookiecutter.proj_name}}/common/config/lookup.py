"""What losses and metrics read: named entries of a model's output and of the batch, and class numbers in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from common.config.errors import UserError, nearest


def pick(names: Sequence[str], where: str, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> list[Any]:
    """Return the entries of these names; an output comes before an entry of the batch with the same name.

    Args:
        names: The names.
        where: The config section of the loss or metric that asks, for messages: ``loss.ce``.
        output_dict: The model's output.
        data_dict: The batch.

    Raises:
        UserError: A name is in neither.
    """
    entries = {**data_dict, **output_dict}
    try:
        return [entries[name] for name in names]
    except KeyError as error:
        name = error.args[0]
        hint = nearest(name, entries)
        raise UserError(f"{where}.input_name: '{name}' is neither an output nor in the batch, {hint}") from None


def predicted_classes(logits: torch.Tensor) -> torch.Tensor:
    """Return the likeliest class, int64 (batch, ...), of logits (batch, classes, ...); binary ones have one channel."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


def class_numbers(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return a target as int64 (batch, ...), without the channel dimension that a binary target may have."""
    return (target[:, 0] if target.ndim == logits.ndim else target).long()
