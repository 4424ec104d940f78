"""Named activations: a layer registers a tensor, the trainer's hooks read it, the end of the iteration clears it.

In a layer, and then in the trainer's ``after_backward``::

    with activations.scope("encoder"):
        activations.register("features", x, retain_grad=True)
    activations.get("encoder/features").grad
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.config.errors import nearest
from common.log import named_tensors as tensors

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
    tensors["/".join([*_scopes, name])] = tensor
    return tensor


def get(name: str) -> torch.Tensor:
    """Return the tensor of this full name; raise a KeyError if this iteration has registered none."""
    if name not in tensors:
        raise KeyError(f"no activation '{name}' in this iteration, {nearest(name, tensors)}")
    return tensors[name]


def names() -> list[str]:
    """Return the full names of this iteration's activations."""
    return list(tensors)


def clear() -> None:
    """Forget all activations."""
    tensors.clear()
