"""What the operators are compiled from, and how: for ``setup.py`` and for ``library.build``.

The sources use torch's stable ABI, which is built in seconds, and once for many versions of torch and Python. What it
has not got, such as the dispatch over types and atomic sums, is written out or avoided in ``csrc/``.
"""

from __future__ import annotations

import os
from pathlib import Path

_TORCH = "0x020a000000000000"  # the oldest torch it runs on: 2.10
_PYTHON = "0x030a0000"  # and the oldest Python: 3.10


def find_sources(folder: Path) -> tuple[list[str], bool]:
    """Return the sources below ``folder``, relative to it, and whether CUDA's are among them.

    They are where torch is built for CUDA and a toolkit is found, or with ``FORCE_CUDA=1``; not with ``FORCE_CUDA=0``.
    """
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if os.environ.get("FORCE_CUDA") == "1" and torch.version.cuda is None:
        raise SystemExit("FORCE_CUDA=1: expected a torch that is built for CUDA, found one for the CPU only")
    default = "1" if torch.version.cuda and CUDA_HOME else "0"
    with_cuda = os.environ.get("FORCE_CUDA", default) == "1"
    paths = [*folder.glob("csrc/*.cpp"), *(folder.glob("csrc/cuda/*.cu") if with_cuda else ())]
    return sorted(str(path.relative_to(folder)) for path in paths), with_cuda


def compile_flags(with_cuda: bool) -> dict[str, list[str]]:
    """Return the compilers' flags; ``DEBUG=1`` builds without optimization and with symbols."""
    debug = os.environ.get("DEBUG") == "1"
    common = ["-std=c++20", f"-DTORCH_TARGET_VERSION={_TORCH}", *(["-O0", "-g"] if debug else ["-O3"])]
    flags = {"cxx": [*common, f"-DPy_LIMITED_API={_PYTHON}", "-Wno-unknown-pragmas"]}
    if with_cuda:
        flags["nvcc"] = [*common, *(["-G"] if debug else [])]
    return flags
