"""A copy of a state in host memory, so that a background thread can write it while training continues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from common.run.device import map_nested


class HostCopy:
    """Copies similar states again and again, into memory that it keeps: fresh pages cost more than the copy.

    A copy is valid until the next one is taken.

    Args:
        keeps: Whether this process keeps the copy; the others only help to gather sharded tensors.
        whole: Returns a sharded tensor whole, and any other one itself: ``Strategy.whole``.
    """

    def __init__(self, keeps: bool = True, whole: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor):
        self._keeps, self._whole = keeps, whole
        self._kept: dict[tuple, torch.Tensor] = {}

    def take(self, state: Any) -> Any:
        """Return the state with each tensor replaced by a whole copy on the CPU; shared tensors stay shared.

        Collective where tensors are sharded.
        """
        kept, self._kept, self._seen = self._kept, {}, {}

        def copy(path: tuple, value: Any) -> Any:
            return self._copy_tensor(value.detach(), path, kept) if isinstance(value, torch.Tensor) else value

        copied = map_nested(state, copy)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def _copy_tensor(self, own: torch.Tensor, path: tuple, kept: dict[tuple, torch.Tensor]) -> torch.Tensor:
        value = self._whole(own)
        if not self._keeps:
            return value
        memory: tuple = value.device, value.data_ptr(), value.shape, value.stride(), value.dtype
        if value is not own:
            memory = path  # gathered just now: the next one may get the same address
        if value.numel() and memory in self._seen:
            return self._seen[memory]
        copy = kept.get(path)
        if copy is None or (copy.shape, copy.dtype, copy.stride()) != (value.shape, value.dtype, value.stride()):
            copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        copy.copy_(value, non_blocking=value.is_cuda)
        self._kept[path] = self._seen[memory] = copy
        return copy
