"""What models have in common: how their weights begin, and how an optimizer takes their parameters."""

from __future__ import annotations

from typing import Any

from torch import nn

from common.log.console import add_log
from common.state.pretrained import fetch_weights
from common.state.weights import load_matching

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class BaseModel(nn.Module):
    """A model that begins with He's weights, or with published ones. Call ``start`` at the end of your ``__init__``."""

    def start(self, weights: str | None = None) -> None:
        """Draw the first weights, then take over those that fit from a file or a library, and log which do not.

        Args:
            weights: None, a file, or a library's name for published weights: see ``fetch_weights``.

        Raises:
            UserError: No such weights, or none of them fits.
        """
        self.init_weights()
        if weights is not None:
            for line in load_matching(self, fetch_weights(weights), weights):
                add_log(line, "WARNING")

    def init_weights(self) -> None:
        """Draw the weights of convolutions for ReLU; begin norms as the identity. Linear layers keep torch's start.

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
        """Return the optimizer's groups: weights, which decay, and biases and norms, which do not.

        Source: He et al., Bag of Tricks for Image Classification (2019).
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]


def parameter_table(model: nn.Module) -> str:
    """Return a model's parameters as a table, a line each with name, shape, count, and whether it is trained."""
    rows = [
        (name, " x ".join(map(str, p.shape)) or "1", f"{p.numel():,}", "yes" if p.requires_grad else "no")
        for name, p in model.named_parameters()
    ]
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rows = [("parameter", "shape", "count", "trained"), *rows, ("total", "", f"{total:,}", f"{trained:,}")]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}  {is_trained:>{widths[3]}}"
        for name, shape, count, is_trained in rows
    )
