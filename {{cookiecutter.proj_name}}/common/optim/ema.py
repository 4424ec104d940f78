"""The exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.sharding.parallel import reshard
from common.sharding.tensors import local_parts, spread_like


class EMA:
    """Keeps an average of a model's weights and floating buffers, and lends it to the model for evaluation.

    The decay rises to its value over the first updates, ``min(decay, (1 + n) / (10 + n))``, so that a short run does
    not evaluate its random start.

    Source: Polyak and Juditsky (1992); the rising decay is the one of TensorFlow's ExponentialMovingAverage.

    Args:
        model: The bare model (not its wrapper), already on its device.
        decay: Share of the old average that an update keeps, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self._names = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
        source = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        self._whole_average = [tensor.clone() for tensor in source]
        self._model, self._source, self._average = model, local_parts(source), local_parts(self._whole_average)

    @torch.no_grad()
    def update(self, moved: torch.Tensor | None = None) -> None:
        """Move the average towards the model's present weights.

        Args:
            moved: A truth value on the device that only the device knows yet: whether to move at all. The caller takes
                one from ``updates`` when it turns out to be false.
        """
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        if moved is None:
            torch._foreach_lerp_(self._average, self._source, share)
        else:
            step = torch._foreach_sub(self._source, self._average)
            torch._foreach_mul_(step, moved * share)
            torch._foreach_add_(self._average, step)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the model hold the average inside the ``with``; its own weights come back afterwards, bit for bit."""
        kept = [tensor.clone() for tensor in self._source]
        reshard(self._model)
        self._copy(self._average, self._source)
        try:
            yield
        finally:
            reshard(self._model)
            self._copy(kept, self._source)

    def state_dict(self) -> dict:
        """Return the average by parameter name, and the number of updates."""
        return {"updates": self.updates, "weights": dict(zip(self._names, self._whole_average, strict=True))}

    def load_state_dict(self, state: dict) -> None:
        """Go on from the average of ``state_dict``."""
        self.updates = state["updates"]
        saved = spread_like(state["weights"], dict(zip(self._names, self._whole_average, strict=True)))
        self._copy(local_parts(saved[name] for name in self._names), self._average)

    @staticmethod
    @torch.no_grad()
    def _copy(source: list[torch.Tensor], target: list[torch.Tensor]) -> None:
        for old, new in zip(target, source, strict=True):
            old.copy_(new)
