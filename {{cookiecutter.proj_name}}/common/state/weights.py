"""A model's weights out of a checkpoint, or out of any state dict that torch saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.config.errors import UserError, nearest
from common.sharding.tensors import spread_like
from common.state.file import read_plain


def read_weights(path: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """Return a model's weights from a checkpoint, the averaged ones if it holds such, or from a bare state dict.

    Args:
        path: A checkpoint of ours, or a file with one model's ``state_dict``.
        name: The model's part.

    Raises:
        UserError: No checkpoint, or one without that model.
    """
    state = read_plain(path)
    average = state.get(name.replace("model", "ema", 1))
    if are_weights(state.get(name)):
        averaged = average.get("weights") if isinstance(average, dict) else None
        return {**state[name], **(averaged if are_weights(averaged) else {})}
    if are_weights(state):
        return state
    raise UserError(f"{path}: holds no '{name}', {nearest(name, state)}")


def are_weights(value: Any) -> bool:
    """Return whether a value is a state dict: names and plain tensors that lie in memory."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(
            isinstance(key, str) and type(item) in (torch.Tensor, torch.nn.Parameter) and _is_plain(item)
            for key, item in value.items()
        )
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_quantized


def load_matching(model: torch.nn.Module, weights: dict[str, torch.Tensor], where: str) -> list[str]:
    """Load the weights whose names and shapes fit, and report the others.

    Args:
        model: The bare model.
        weights: A state dict.
        where: The file, for messages.

    Returns:
        One line for each key that was not loaded, with the reason.

    Raises:
        UserError: No key fits.
    """
    own = model.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UserError(f"{where}: none of its {len(weights)} weights fits the model {type(model).__name__}")
    model.load_state_dict(spread_like(fitting, own), strict=False)
    report = [f"{key}: not in the file" for key in own if key not in weights]
    for key, value in weights.items():
        if key not in own:
            report.append(f"{key}: not in the model")
        elif key not in fitting:
            report.append(f"{key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model")
    return report
