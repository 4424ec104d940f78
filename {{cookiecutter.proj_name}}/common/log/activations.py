"""Intermediate tensors by name: anything inside the model can lay one out, and the trainer's hooks can read it.

In a layer::

    with endpoints.scope("encoder"):
        endpoints.register("features", x, retain_grad=True)

and in the trainer's ``after_backward``::

    endpoints.get("encoder/features").grad

They live for one iteration: the engine clears them when it ends. What nobody registers costs nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.config.errors import nearest

_tensors: dict[str, torch.Tensor] = {}
_scopes: list[str] = []


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Put ``name/`` in front of what is registered inside; scopes nest."""
    _scopes.append(name)
    try:
        yield
    finally:
        _scopes.pop()


def register(name: str, tensor: torch.Tensor, retain_grad: bool = False) -> torch.Tensor:
    """Lay out a tensor under its scoped name for the rest of this iteration and return it.

    Args:
        name: Its name inside the current scopes; registered again, the newer tensor stays.
        tensor: Any shape and dtype.
        retain_grad: Keep its gradient, so that ``get(...).grad`` holds it after the backward pass.
    """
    if retain_grad and tensor.requires_grad:
        tensor.retain_grad()
    _tensors["/".join([*_scopes, name])] = tensor
    return tensor


def get(name: str) -> torch.Tensor:
    """Return the tensor of this iteration under its full name, such as ``"encoder/features"``.

    Raises:
        KeyError: Nothing was registered under that name in this iteration.
    """
    if name not in _tensors:
        raise KeyError(f"no endpoint '{name}' in this iteration, {nearest(name, _tensors)}")
    return _tensors[name]


def names() -> list[str]:
    """Return the full names of this iteration's endpoints."""
    return list(_tensors)


def clear() -> None:
    """Forget all endpoints; the engine calls it at the end of each iteration."""
    _tensors.clear()
