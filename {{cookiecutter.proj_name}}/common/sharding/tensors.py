"""Tensors of which each process holds a part (torch's DTensor), and whole ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from common.sharding.files import Stored, read_stored


def is_spread(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether there is one of which each process holds a part."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def local_parts(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return what this process holds of each tensor, sharing its memory; of a whole tensor, itself."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def spread_like(values: Mapping[Any, Any], examples: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return tensors, whole ones or such as are ``Stored``, spread as the examples of the same name and shape are.

    Anything else stays as it is. Every process has the whole tensors already, and reads of the others what it holds, so
    that nothing is sent.
    """
    spread, stored = {}, {}
    for name, value in values.items():
        example = examples.get(name)
        is_alike = isinstance(example, torch.Tensor) and getattr(value, "shape", None) == example.shape
        if isinstance(value, Stored):
            empty = torch.empty_like(example.detach()) if is_alike else torch.empty(value.shape, dtype=value.dtype)
            stored[value] = empty
            value = empty
        elif is_alike and isinstance(example, DTensor) and not isinstance(value, DTensor):
            whole = value.to(example.device, example.dtype)
            value = distribute_tensor(whole, example.device_mesh, example.placements, src_data_rank=None)
        spread[name] = value
    read_stored(stored)
    return spread


class Whole:
    """A part of a checkpoint whose state is loaded from whole tensors, although its own may be spread.

    Args:
        part: The part.
        spread: Returns the state of whole tensors as that part takes it.
    """

    def __init__(self, part: Any, spread: Callable[[dict], dict]):
        self.state_dict, self._part, self._spread = part.state_dict, part, spread

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of whole tensors."""
        self._part.load_state_dict(self._spread(state))


def whole_model(model: torch.nn.Module) -> Whole:
    """Return a model as a part of a checkpoint."""
    own = model.state_dict()
    return Whole(model, lambda state: spread_like(state, own))


def whole_optimizer(optimizer: Optimizer) -> Whole:
    """Return an optimizer as a part of a checkpoint."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def spread(state: dict) -> dict:
        flat = {(i, key): value for i, one in state["state"].items() for key, value in one.items()}
        flat = spread_like(flat, {(i, key): parameters[i] for i, key in flat})
        moments = {i: {key: flat[i, key] for key in one} for i, one in state["state"].items()}
        return {**state, "state": moments}

    return Whole(optimizer, spread)
