"""A copy of a state in host memory, so that a background thread can write it while training continues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from common.run.strategy import WHOLE, map_nested


class HostCopy:
    """Copies similar states again and again, into memory that it keeps: fresh pages cost more than the copy.

    A process that does not keep the copy only helps to gather the sharded tensors, which ``whole`` returns whole.
    """

    def __init__(self, keeps: bool = True, whole: Callable[[torch.Tensor], torch.Tensor] = WHOLE.whole):
        self._keeps, self._whole = keeps, whole
        self._kept: dict[tuple, torch.Tensor] = {}  # by path in the state and layout

    def take(self, state: Any) -> Any:
        """Return the state with each tensor replaced by a whole copy on the CPU, valid until the next one is taken.

        Shared tensors stay shared. Collective where tensors are sharded.
        """
        kept: dict[tuple, torch.Tensor] = {}
        copies: dict[tuple, torch.Tensor] = {}  # by the memory that was copied

        def copy(path: tuple, value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            own = value.detach()
            whole = self._whole(own)
            if not self._keeps:
                return whole
            layout = whole.shape, whole.stride(), whole.dtype
            # A tensor gathered just now has memory of its own, whose address the next one may get.
            memory = (whole.device, whole.data_ptr(), layout) if whole is own else path
            if memory not in copies:
                host = self._kept.get((path, layout))
                if host is None:
                    host = torch.empty_like(whole, device="cpu", pin_memory=whole.is_cuda)
                kept[path, layout] = copies[memory] = host.copy_(whole, non_blocking=whole.is_cuda)
            return copies[memory]

        copied = map_nested(state, copy)
        self._kept = kept
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied
