"""Weights that others have trained."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import torch

from common.config.errors import UserError
from common.state.weights import read_weights


def fetch_weights(source: str) -> dict[str, torch.Tensor]:
    """Return a state dict.

    Args:
        source: A file (a checkpoint of ours, or a state dict that torch saved); ``torchvision:<name>`` such as
            ``torchvision:ResNet18_Weights.IMAGENET1K_V1``; or ``timm:<name>`` such as ``timm:resnet18.a1_in1k``. The
            libraries download into their own caches; neither is needed otherwise.

    Raises:
        UserError: No such file, library or name, or its download fails.
    """
    library, colon, name = source.partition(":")
    if not colon or library not in ("torchvision", "timm"):
        return read_weights(Path(source))
    module = _import(library, source)
    try:
        if library == "torchvision":
            return module.models.get_weight(name).get_state_dict(check_hash=True)
        return module.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError, ValueError, AttributeError) as error:
        raise UserError(f"weights: {source}: {type(error).__name__}: {error}") from error


def _import(library: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except (ImportError, RuntimeError) as error:
        raise UserError(f"weights: {source} needs {library}, which cannot be imported: {error}") from error
