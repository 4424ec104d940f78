"""The compiled operators: built ahead of time by ``scripts/install_ops.sh``, or while you develop, by ``build``."""

from __future__ import annotations

import importlib.util
import os
import warnings
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
NAME = f"{FOLDER.parent.name}_ops_library"
NAMESPACE = "project_ops"  # TORCH_LIBRARY's, in csrc/
_HOW = "not built; build it by: sh scripts/install_ops.sh"


def has(op: str) -> bool:
    """Load the library, and return whether it has an operator: one that is new may not be built yet."""
    return load() and hasattr(getattr(torch.ops, NAMESPACE), op)


@cache
def load() -> bool:
    """Load the library that ``scripts/install_ops.sh`` installed, and return whether there is one.

    With ``OPS_BUILD=1`` in the environment, build what has changed in ``csrc/`` instead.
    """
    if os.environ.get("OPS_BUILD") == "1":
        build()
        return True
    spec = importlib.util.find_spec(NAME)
    if spec is not None and spec.origin:
        torch.ops.load_library(spec.origin)
    return spec is not None


def build() -> None:
    """Compile and load the library now; only what has changed is compiled again."""
    from torch.utils import cpp_extension

    from custom.ops.flags import compile_flags, find_sources

    sources, with_cuda = find_sources(FOLDER)
    flags = compile_flags(with_cuda)
    cpp_extension.load(
        NAME,
        [str(FOLDER / source) for source in sources],
        extra_cflags=flags["cxx"],
        extra_cuda_cflags=flags.get("nvcc"),
        with_cuda=with_cuda,
        is_python_module=False,
    )


def refuse_or_warn(op: str, fallback: bool) -> None:
    """Say that an operator is not built: as an error, or with ``fallback`` as a warning that is shown once.

    Raises:
        RuntimeError: There is to be no fallback.
    """
    if not fallback:
        raise RuntimeError(f"{op}: {_HOW}")
    warnings.warn(f"{op}: {_HOW}. Until then its slower reference in plain torch is used", stacklevel=3)


def check_alike(op: str, **tensors: torch.Tensor) -> None:
    """Check that tensors have one shape, and ``check_compatible``.

    Raises:
        ValueError: They do not; both sides are named.
    """
    (name, first), *others = tensors.items()
    for other, tensor in others:
        if tensor.shape != first.shape:
            raise ValueError(
                f"{op}: expected one shape, without broadcasting; found {name} {tuple(first.shape)} and "
                f"{other} {tuple(tensor.shape)}"
            )
    check_compatible(op, **tensors)


def check_compatible(op: str, **tensors: torch.Tensor) -> None:
    """Check that tensors have one floating-point type, which autocast sees to by itself, and one device.

    Raises:
        ValueError: They do not; both sides are named.
    """
    (name, first), *others = tensors.items()
    if not first.is_floating_point():
        raise ValueError(f"{op}: expected floating-point tensors, found {name} of {first.dtype}")
    for other, tensor in others:
        if tensor.device != first.device:
            raise ValueError(
                f"{op}: expected one device, found {name} on {first.device} and {other} on {tensor.device}"
            )
        if tensor.dtype != first.dtype and not torch.is_autocast_enabled(first.device.type):
            raise ValueError(f"{op}: expected one type, found {name} of {first.dtype} and {other} of {tensor.dtype}")
