"""Named activations: any layer can register an intermediate tensor, and the trainer's hooks can read it.

In a layer::

    with activations.scope("encoder"):
        activations.register("features", x, retain_grad=True)

and in the trainer's ``after_backward``::

    activations.get("encoder/features").grad

The engine clears them at the end of each iteration.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.config.errors import nearest

_tensors: dict[str, torch.Tensor] = {}
_scopes: list[str] = []


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Put ``name/`` in front of the names registered inside; scopes nest."""
    _scopes.append(name)
    try:
        yield
    finally:
        _scopes.pop()


def register(name: str, tensor: torch.Tensor, retain_grad: bool = False) -> torch.Tensor:
    """Register a tensor under its scoped name and return it; ``retain_grad`` keeps its gradient."""
    if retain_grad and tensor.requires_grad:
        tensor.retain_grad()
    _tensors["/".join([*_scopes, name])] = tensor
    return tensor


def get(name: str) -> torch.Tensor:
    """Return the tensor of this full name; raise a KeyError if this iteration has registered none."""
    if name not in _tensors:
        raise KeyError(f"no activation '{name}' in this iteration, {nearest(name, _tensors)}")
    return _tensors[name]


def names() -> list[str]:
    """Return the full names of this iteration's activations."""
    return list(_tensors)


def clear() -> None:
    """Forget all activations."""
    _tensors.clear()
