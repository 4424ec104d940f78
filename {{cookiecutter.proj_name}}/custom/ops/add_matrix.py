"""The sum of two tensors, the smallest sample: python custom/ops/add_matrix.py."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

if not __package__:  # run as a program
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from custom.ops import library

_BUILT = library.has("add_matrix")


def add_matrix(a: torch.Tensor, b: torch.Tensor, fallback: bool = False) -> torch.Tensor:
    """Return ``a + b``, differentiable any number of times.

    Args:
        a: Any shape, floating point, on the CPU or on CUDA.
        b: The same shape, type and device: there is no broadcasting.
        fallback: Use ``add_matrix_reference``, with a warning, where the operator is not built.

    Raises:
        ValueError: ``a`` and ``b`` differ, or are not floating point.
        RuntimeError: Not built, without ``fallback``.
    """
    library.check_alike("add_matrix", a=a, b=b)
    if not _BUILT:
        library.refuse_or_warn("add_matrix", fallback)
        return add_matrix_reference(a, b)
    return torch.ops.project_ops.add_matrix(a, b)


def add_matrix_reference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return what ``add_matrix`` returns, in plain torch."""
    return a + b


class AddMatrix(nn.Module):
    """``add_matrix`` as a module.

    Args:
        fallback: As in ``add_matrix``.
    """

    def __init__(self, fallback: bool = False):
        super().__init__()
        self.fallback = fallback

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return ``a + b``."""
        return add_matrix(a, b, self.fallback)


def _register() -> None:
    """Tell torch what compile, autograd, autocast and vmap must know of the operators in ``csrc/``."""
    from torch.library import register_autocast, register_autograd, register_fake, register_vmap

    forward, backward = "project_ops::add_matrix", "project_ops::add_matrix_backward"

    @register_fake(forward)
    def _(a, b):
        library.check_alike("add_matrix", a=a, b=b)
        return a.new_empty(a.shape)

    @register_fake(backward)
    def _(grad):
        return grad.new_empty(grad.shape), grad.new_empty(grad.shape)

    register_autograd(forward, lambda ctx, grad: torch.ops.project_ops.add_matrix_backward(grad))
    register_autograd(backward, lambda ctx, grad_a, grad_b: torch.ops.project_ops.add_matrix(grad_a, grad_b))
    register_autocast(forward, "cpu", torch.bfloat16)
    register_autocast(forward, "cuda", torch.float16)

    @register_vmap(forward)
    def _(info, in_dims, a, b):
        batched = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip((a, b), in_dims, strict=True)
        ]
        return torch.ops.project_ops.add_matrix(*batched), 0

    @register_vmap(backward)
    def _(info, in_dims, grad):
        return torch.ops.project_ops.add_matrix_backward(grad.movedim(in_dims[0], 0)), (0, 0)


if _BUILT:
    _register()


def main() -> None:
    """Add two matrices and differentiate the sum."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.full((2, 3), value, device=device, requires_grad=True) for value in (1.0, 2.0))
    total = add_matrix(a, b, fallback=True)
    total.square().sum().backward()
    print(f"{'built' if _BUILT else 'not built: the reference'}, on {device}")
    print(f"a + b =\n{total.detach()}")
    print(f"the gradient of (a + b)² by a =\n{a.grad}")


if __name__ == "__main__":
    main()
