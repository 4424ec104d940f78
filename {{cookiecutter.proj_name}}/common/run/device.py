"""Moving nested data to a device, and the precision it is computed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def move_to(data: Any, device: torch.device) -> Any:
    """Return the data with every tensor in its dicts, lists and tuples on the device; the rest is left as it is.

    From pinned memory the copy runs beside the computation.
    """
    if isinstance(data, torch.Tensor):
        return data.to(device, non_blocking=True)
    if isinstance(data, dict):
        return {key: move_to(value, device) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        moved = [move_to(value, device) for value in data]
        return type(data)(*moved) if hasattr(data, "_fields") else type(data)(moved)
    return data


def in_precision(function: Callable, device: torch.device, precision: str) -> Callable:
    """Return the function as it runs in ``fp32`` (itself), ``bf16`` or ``fp16`` mixed precision on the device."""
    if precision == "fp32":
        return function
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)(function)
