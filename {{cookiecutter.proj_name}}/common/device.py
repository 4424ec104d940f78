"""Moving nested data to a device, and the precision it is computed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def map_tensors(function: Callable[[torch.Tensor], Any], data: Any) -> Any:
    """Return the data with the function's result for every tensor in its dicts, lists and tuples."""
    if isinstance(data, torch.Tensor):
        return function(data)
    if isinstance(data, dict):
        return {key: map_tensors(function, value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        mapped = [map_tensors(function, value) for value in data]
        return type(data)(*mapped) if hasattr(data, "_fields") else type(data)(mapped)
    return data


def move_to(data: Any, device: torch.device) -> Any:
    """Return the data with its tensors on the device; from pinned memory the copy runs beside the computation."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), data)


def in_precision(function: Callable, device: torch.device, precision: str) -> Callable:
    """Return the function as it runs in ``fp32`` (itself), ``bf16`` or ``fp16`` mixed precision on the device."""
    if precision == "fp32":
        return function
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)(function)
