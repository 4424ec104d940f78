"""The weights of a model: from a checkpoint, or from any state dict that torch saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.config.errors import UserError, nearest
from common.run.strategy import WHOLE, Strategy
from common.state.file import read_plain


def read_weights(path: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """Return a model's weights from a checkpoint, averaged ones if it holds them, or from a bare state dict.

    ``name`` is the model's part. Raise a UserError if the file holds no such model.
    """
    state = read_plain(path)
    if _is_state_dict(state.get(name)):
        average = state.get(name.replace("model", "ema", 1))
        averaged: Any = average.get("weights") if isinstance(average, dict) else None
        return {**state[name], **(averaged if _is_state_dict(averaged) else {})}
    if _is_state_dict(state):
        return state
    raise UserError(f"{path}: holds no '{name}', {nearest(name, state)}")


def load_exactly(model: torch.nn.Module, path: Path) -> None:
    """Load a checkpoint's weights; raise a UserError unless each name and shape is the model's."""
    weights = read_weights(path)
    expected, found = ({key: tuple(v.shape) for key, v in state.items()} for state in (model.state_dict(), weights))
    for key in {**expected, **found}:
        if expected.get(key) != found.get(key):
            shapes = f"expected {expected.get(key, 'no such key')}, found {found.get(key, 'no such key')}"
            raise UserError(f"{path}: does not fit {type(model).__name__}: '{key}': {shapes}")
    model.load_state_dict(weights)


def load_matching(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], where: str, strategy: Strategy = WHOLE
) -> list[str]:
    """Load the weights whose names and shapes match into an unwrapped model.

    Return a line for each other key, with the reason. Raise a UserError, which names the file ``where``, if none match.
    """
    own = model.state_dict()
    matching = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not matching:
        raise UserError(f"{where}: none of its {len(weights)} weights fits the model {type(model).__name__}")
    model.load_state_dict(strategy.distribute(matching, own), strict=False)
    report = [f"{key}: not in the file" for key in own if key not in weights]
    for key, value in weights.items():
        if key not in own:
            report.append(f"{key}: not in the model")
        elif key not in matching:
            report.append(f"{key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model")
    return report


def _is_state_dict(value: Any) -> bool:
    """Return whether a value has names and plain tensors in memory, and nothing else."""
    return isinstance(value, Mapping) and len(value) > 0 and all(map(_is_weight, value, value.values()))


def _is_weight(name: Any, value: Any) -> bool:
    is_tensor = isinstance(name, str) and type(value) in (torch.Tensor, torch.nn.Parameter)
    return is_tensor and value.device.type == "cpu" and value.layout == torch.strided and not value.is_quantized
