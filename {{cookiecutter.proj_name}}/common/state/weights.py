"""The weights of a model: from a checkpoint, from any state dict that torch saved, or as published by a library."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.config.errors import UserError, nearest
from common.run.strategy import WHOLE, Strategy
from common.state.file import read_plain


def read_weights(path: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """Return a model's weights from a checkpoint, averaged ones if it holds them, or from a bare state dict.

    Args:
        path: A checkpoint of this project, or a file with one model's ``state_dict``.
        name: The model's part.

    Raises:
        UserError: No checkpoint, or one without that model.
    """
    state = read_plain(path)
    average = state.get(name.replace("model", "ema", 1))
    if _is_state_dict(state.get(name)):
        averaged = average.get("weights") if isinstance(average, dict) else None
        return {**state[name], **(averaged if _is_state_dict(averaged) else {})}
    if _is_state_dict(state):
        return state
    raise UserError(f"{path}: holds no '{name}', {nearest(name, state)}")


def fetch_weights(source: str) -> dict[str, torch.Tensor]:
    """Return a state dict.

    Args:
        source: A file, as for ``read_weights``; ``torchvision:<name>`` such as
            ``torchvision:ResNet18_Weights.IMAGENET1K_V1``; or ``timm:<name>`` such as ``timm:resnet18.a1_in1k``. The
            libraries are optional and download into their own caches.

    Raises:
        UserError: No such file, library or name, or its download fails.
    """
    library, colon, name = source.partition(":")
    if not colon or library not in ("torchvision", "timm"):
        return read_weights(Path(source))
    try:
        module = importlib.import_module(library)
    except (ImportError, RuntimeError) as error:
        raise UserError(f"weights: {source} needs {library}, which cannot be imported: {error}") from error
    try:
        if library == "torchvision":
            return module.models.get_weight(name).get_state_dict(check_hash=True)
        return module.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        raise UserError(f"weights: {source}: {type(error).__name__}: {error}") from error


def load_matching(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], where: str, strategy: Strategy = WHOLE
) -> list[str]:
    """Load the weights whose names and shapes match.

    Args:
        model: The unwrapped model.
        weights: A state dict.
        where: The file, for messages.
        strategy: How the model was placed.

    Returns:
        One line for each key that was not loaded, with the reason.

    Raises:
        UserError: No key matches.
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
    return (
        isinstance(name, str)
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not value.is_quantized
    )
