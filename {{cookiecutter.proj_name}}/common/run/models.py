"""A trainer's models: as registered, as training calls them, and as evaluations call them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.config.schema import Config
from common.run.distributed import is_distributed
from common.run.strategy import Strategy, set_gradient_sync

MAIN = "main"


def part_name(kind: str, name: str) -> str:
    """Return a part's key in a checkpoint: ``model``, or ``model.generator`` for one of several."""
    return kind if name == MAIN else f"{kind}.{name}"


class Models:
    """The models of a run by name, in three forms whose names always mean the same.

    ``bare``: the registered modules, on their device; optimizers and checkpoints refer to these. ``wrapped``: what
    training calls, in the wrapper of their strategy such as ``DistributedDataParallel``, compiled if so configured.
    ``validation``: what evaluations call, without a wrapper. ``active`` are those of the present phase.
    """

    def __init__(self, strategy: Strategy, config: Config):
        self.bare: dict[str, nn.Module] = {}
        self.wrapped: dict[str, nn.Module] = {}
        self.validation: dict[str, nn.Module] = {}
        self.active = self.bare
        self.syncs_by_hand = is_distributed() and config.trainer.accumulate > 1
        self._strategy, self._config = strategy, config
        self._wrappers: dict[str, nn.Module] = {}

    def add(self, name: str, model: nn.Module) -> None:
        """Place a model on its device and keep it."""
        self.bare[name] = self._strategy.place(model, self._config)

    def wrap(self) -> None:
        """Wrap and compile all models; from here on training's are the active ones."""
        for name, bare in self.bare.items():
            wrapper = self._wrappers[name] = self._strategy.wrap(bare)
            self.validation[name] = self._compile(bare)
            self.wrapped[name] = self.validation[name] if wrapper is bare else self._compile(wrapper)
        self.active = self.wrapped

    def sync_gradients(self, sync: bool) -> None:
        """Set whether the next backward pass averages the gradients over the ranks."""
        set_gradient_sync(self._wrappers.values(), sync)

    def _compile(self, model: nn.Module) -> Any:
        mode = self._config.trainer.compile
        return torch.compile(model, mode=mode if isinstance(mode, str) else None) if mode else model
