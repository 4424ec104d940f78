"""Which operation of a forward pass made a value that is not finite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_TORCH = str(Path(torch.__file__).parent)


class NonFiniteOrigin(TorchDispatchMode):
    """Notes the last operation within it that returned NaN, or infinity, though none of its inputs had any.

    It is the last one, because earlier ones may be meant, such as the infinities of an attention mask. Each operation
    waits for the device. What anomaly detection finds is the same in a backward pass.
    """

    def __init__(self):
        super().__init__()
        self.is_watching = True
        self.origins: dict[str, str] = {}
        """``nan`` or ``inf`` → the operation, and the line of code that called it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and look at what it returns."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if not self.is_watching or "empty" in name:  # memory that is not written yet may hold anything
            return func(*args, **kwargs)
        before = _kinds((args, kwargs)) if func._schema.is_mutable else None
        result = func(*args, **kwargs)
        if found := _kinds(result):
            for kind in found - (_kinds((args, kwargs)) if before is None else before):
                self.origins[kind] = f"'{name.strip('_')}' in {_calling_line()}"
        return result

    def explain(self, loss: torch.Tensor) -> str:
        """Return in one line what is wrong with a loss that is not finite, and where it comes from."""
        kind = min(_kinds(loss), key=["nan", "inf"].index)
        cause = self.origins.get(kind, "the batch or the weights, which have some already")
        return f"the loss is not finite; the {'NaN' if kind == 'nan' else 'infinity'} comes from {cause}"


def _kinds(values: Any) -> set[str]:
    """Return which of ``nan`` and ``inf`` the tensors in nested values have."""
    found = set()
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
            part = getattr(value, "_local_tensor", value)  # of a sharded one, what this process holds
            found |= {kind for kind, check in (("nan", torch.isnan), ("inf", torch.isinf)) if check(part).any()}
    return found


def _calling_line() -> str:
    """Return the file and the line of the innermost call that is neither torch's nor of this file."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_code.co_filename.startswith((_TORCH, __file__)):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{frame.f_lineno}"
