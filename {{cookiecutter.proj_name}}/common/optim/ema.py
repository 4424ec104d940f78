"""The exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from common.run.strategy import WHOLE, Strategy


class EMA:
    """Averages an unwrapped model's weights and floating buffers, and lends the average to it for evaluation.

    The decay rises over the first updates, ``min(decay, (1 + n) / (10 + n))``, so that a short run does not evaluate
    its random start. Source: Polyak and Juditsky (1992); TensorFlow's ExponentialMovingAverage for the rising decay.
    """

    def __init__(self, model: nn.Module, decay: float, strategy: Strategy = WHOLE):
        state = {name: tensor.detach() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        self._weights = {name: tensor.clone() for name, tensor in state.items()}
        self._source, self._average = strategy.local(state.values()), strategy.local(self._weights.values())
        self._model, self._strategy = model, strategy
        self.decay, self.updates = decay, 0

    def update(self, moved: torch.Tensor | None = None) -> None:
        """Move the average toward the model's current weights.

        Where the host does not know yet whether they have moved, ``moved`` is that boolean on the device. If it turns
        out to be false, the caller takes one from ``updates``.
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
        self._set_model(self._average)
        try:
            yield
        finally:
            self._set_model(kept)

    def state_dict(self) -> dict:
        """Return the average by parameter name, and the number of updates."""
        return {"updates": self.updates, "weights": dict(self._weights)}

    def load_state_dict(self, state: dict) -> None:
        """Resume from the average of ``state_dict``."""
        self.updates = state["updates"]
        saved = self._strategy.distribute(state["weights"], self._weights)
        torch._foreach_copy_(self._average, self._strategy.local(saved[name] for name in self._weights))

    def _set_model(self, tensors: list[torch.Tensor]) -> None:
        self._strategy.reshard(self._model)
        torch._foreach_copy_(self._source, tensors)
