"""What models have in common: their first weights, and the groups in which an optimizer takes their parameters."""

from __future__ import annotations

from typing import Any

from torch import nn

from common.log.console import add_log
from common.state.weights import fetch_weights, load_matching

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class BaseModel(nn.Module):
    """A model that starts from He's or from published weights. Call ``start`` at the end of your ``__init__``."""

    def start(self, weights: str | None = None) -> None:
        """Initialize the weights, then load those that match from a file or a library, and log which do not.

        Args:
            weights: None, a file, or a library's name for published weights: see ``fetch_weights``.

        Raises:
            UserError: No such weights, or none of them matches.
        """
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
