"""A copy of a state in host memory, so that a background thread can write it while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor


def map_nested(value: Any, change: Callable[[tuple, Any], Any], path: tuple = ()) -> Any:
    """Return nested dicts, lists and tuples with what ``change`` makes of them and of what is in them, by its path."""
    new = change(path, value)
    if new is not value:
        return new
    if isinstance(value, dict):
        return {key: map_nested(item, change, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        mapped = [map_nested(item, change, (*path, i)) for i, item in enumerate(value)]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    return value


class HostCopy:
    """Copies states that look alike again and again, into memory that it keeps: fresh pages cost more than the copy.

    A copy is valid until the next one is taken.

    Args:
        keeps: Whether this process is the one that keeps the copy; the others only help to gather sharded tensors.
    """

    def __init__(self, keeps: bool = True):
        self._keeps = keeps
        self._kept: dict[tuple, torch.Tensor] = {}

    def take(self, state: Any) -> Any:
        """Return the state with each tensor replaced by a whole copy on the CPU; tensors that are one stay one.

        Collective where tensors are sharded.
        """
        kept, self._kept, self._seen = self._kept, {}, {}

        def copy(path: tuple, value: Any) -> Any:
            return self._copy_tensor(value.detach(), path, kept) if isinstance(value, torch.Tensor) else value

        copied = map_nested(state, copy)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _copy_tensor(self, value: torch.Tensor, path: tuple, kept: dict[tuple, torch.Tensor]) -> torch.Tensor:
        if isinstance(value, DTensor):
            value = value.full_tensor()
            same = path  # its memory is another's in a moment
        else:
            same = value.device, value.data_ptr(), value.shape, value.stride(), value.dtype
        if not self._keeps:
            return value
        if value.numel() and same in self._seen:
            return self._seen[same]
        copy = kept.get(path)
        if copy is None or (copy.shape, copy.dtype, copy.stride()) != (value.shape, value.dtype, value.stride()):
            copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        copy.copy_(value, non_blocking=value.is_cuda)
        self._kept[path] = self._seen[same] = copy
        return copy
