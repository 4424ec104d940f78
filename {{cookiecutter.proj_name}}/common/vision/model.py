"""What models have in common: their initial weights, and the parameter groups of their optimizer."""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.config.errors import UserError
from common.log.console import add_log
from common.state.file import load_matching, read_weights

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class BaseModel(nn.Module):
    """A model with He initialization or pretrained weights. Call ``start`` at the end of your ``__init__``."""

    def start(self, weights: str | None = None) -> None:
        """Initialize the weights, then load what matches from ``weights`` (see ``fetch_weights``) and log the rest."""
        self.init_weights()
        if weights is not None:
            for line in load_matching(self, fetch_weights(weights), weights):
                add_log(line, "WARNING")

    def init_weights(self) -> None:
        """Initialize convolutions for ReLU, and norms as the identity. Linear layers keep PyTorch's default.

        Source: He et al., Delving Deep into Rectifiers (2015), by outputs.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, _NORMS) and module.weight is not None:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: weights with weight decay, biases and norms without.

        Source: He et al., Bag of Tricks for Image Classification (2019).
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def fetch_weights(source: str) -> dict[str, torch.Tensor]:
    """Return the weights of a file, of ``torchvision:<name>`` or of ``timm:<name>``, such as ``timm:resnet18.a1_in1k``.

    The libraries are optional and download into their own caches. Raise a UserError if the weights cannot be had.
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
