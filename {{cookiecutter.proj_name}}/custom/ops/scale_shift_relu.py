"""A fused scale, shift and ReLU, with a kernel of its own for the gradients and a by-product for them."""

from __future__ import annotations

import torch
from torch import nn

from custom.ops import library

_BUILT = library.has("scale_shift_relu")


def scale_shift_relu(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, fallback: bool = False) -> torch.Tensor:
    """Return ``max(0, x * scale + shift)`` in one pass over memory, differentiable any number of times.

    Args:
        x: (rows, channels), floating point, with any strides, on the CPU or on CUDA.
        scale: (channels), of the same type and device.
        shift: (channels), of the same type and device.
        fallback: Use ``scale_shift_relu_reference``, with a warning, where the operator is not built.

    Raises:
        ValueError: Shapes, types or devices do not fit.
        RuntimeError: Not built, without ``fallback``.
    """
    _check(x, scale, shift)
    if not _BUILT:
        library.refuse_or_warn("scale_shift_relu", fallback)
        return scale_shift_relu_reference(x, scale, shift)
    # Which values passed is what the gradient needs. Without a gradient to come nobody should pay for it.
    keep_mask = torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad or shift.requires_grad)
    return torch.ops.project_ops.scale_shift_relu(x, scale, shift, keep_mask)[0]


def scale_shift_relu_reference(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return what ``scale_shift_relu`` returns, in plain torch."""
    return torch.relu(x * scale + shift)


class ScaleShiftReLU(nn.Module):
    """``scale_shift_relu`` with a learned scale and shift for each channel.

    Args:
        channels: Their number.
        fallback: As in ``scale_shift_relu``.
    """

    def __init__(self, channels: int, fallback: bool = False):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.fallback = fallback

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (rows, channels) from (rows, channels)."""
        return scale_shift_relu(x, self.scale, self.shift, self.fallback)


def _check(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> None:
    if x.ndim != 2 or scale.shape != x.shape[1:] or shift.shape != x.shape[1:]:
        raise ValueError(
            "scale_shift_relu: expected x (rows, channels), scale (channels) and shift (channels); found "
            f"x {tuple(x.shape)}, scale {tuple(scale.shape)}, shift {tuple(shift.shape)}"
        )
    library.check_compatible("scale_shift_relu", x=x, scale=scale, shift=shift)


def _register() -> None:
    """Tell torch what compile, autograd and autocast must know of the operators in ``csrc/``."""
    from torch.library import register_autocast, register_autograd, register_fake

    forward, backward = "project_ops::scale_shift_relu", "project_ops::scale_shift_relu_backward"

    @register_fake(forward)
    def _(x, scale, shift, keep_mask):
        _check(x, scale, shift)
        rows, channels = x.shape
        return x.new_empty((rows, channels)), x.new_empty((rows if keep_mask else 0, channels), dtype=torch.bool)

    @register_fake(backward)
    def _(grad, x, scale, mask):
        return x.new_empty(x.shape), x.new_empty(scale.shape), x.new_empty(scale.shape)

    def save_for_gradient(ctx, inputs, output):
        x, scale, *_ = inputs
        ctx.save_for_backward(x, scale, output[1])

    def differentiate(ctx, grad, _grad_mask):
        return *torch.ops.project_ops.scale_shift_relu_backward(grad, *ctx.saved_tensors), None

    register_autograd(forward, differentiate, setup_context=save_for_gradient)

    def save_for_second(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def differentiate_again(ctx, of_x, of_scale, of_shift):
        """Differentiate g·m·scale, Σ g·m·x and Σ g·m, where g is the gradient and m the mask."""
        grad, x, scale, mask = ctx.saved_tensors
        by_grad = mask * (of_x * scale + of_scale * x + of_shift)
        return by_grad, grad * mask * of_scale, (grad * mask * of_x).sum(0), None

    register_autograd(backward, differentiate_again, setup_context=save_for_second)
    register_autocast(forward, "cpu", torch.bfloat16)
    register_autocast(forward, "cuda", torch.float16)


if _BUILT:
    _register()
