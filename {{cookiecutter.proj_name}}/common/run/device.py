"""Devices: which one this process uses, how nested data gets there, and in what precision it computes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from common.config.errors import UserError
from common.config.schema import GpuIds


def gpu_numbers(gpu_ids: GpuIds) -> list[int]:
    """Return ``gpu_ids`` as a list of numbers, empty if it is not set."""
    if isinstance(gpu_ids, str):
        return [int(part) for part in gpu_ids.split(",")]
    return gpu_ids if isinstance(gpu_ids, list) else [] if gpu_ids is None else [gpu_ids]


def choose_device(gpu_ids: GpuIds, one_process: bool = False) -> torch.device:
    """Return the device of this process: the best available, the CPU for -1, or the GPU at its local rank.

    With ``one_process`` a single process feeds all of the GPUs; its own is the first. Raise a UserError if a GPU does
    not exist, or if the number of GPUs is not that of the processes on this machine.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    found, numbers = torch.cuda.device_count(), gpu_numbers(gpu_ids)
    if numbers == [-1]:
        return torch.device("cpu")
    if not numbers and not found:
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not numbers:
        # srun may show each process nothing but its own GPU.
        numbers = [0] * local_size if found == 1 else [*range(local_size)]
    if len(numbers) != local_size and not one_process:
        raise UserError(f"--gpu_ids {gpu_ids}: {len(numbers)} GPUs for {local_size} processes on this machine")
    if numbers[local_rank] >= found:
        raise UserError(f"--gpu_ids {gpu_ids}: found {found} GPUs for {local_size} processes on this machine")
    return torch.device("cuda", numbers[local_rank])


def map_nested(value: Any, change: Callable[[tuple, Any], Any], path: tuple = ()) -> Any:
    """Return nested dicts, lists and tuples with each value replaced by ``change(path, value)``.

    A container is offered before its items; where ``change`` replaces it, its items are not visited.
    """
    new = change(path, value)
    if new is not value:
        return new
    if isinstance(value, dict):
        return {key: map_nested(item, change, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        mapped = [map_nested(item, change, (*path, i)) for i, item in enumerate(value)]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    return value


def move_to(data: Any, device: torch.device) -> Any:
    """Return nested data with every tensor on the device. From pinned memory the copy runs beside the computation."""
    return map_nested(data, lambda _, value: value.to(device, non_blocking=True) if torch.is_tensor(value) else value)


def in_precision(function: Callable, device: torch.device, precision: str) -> Callable:
    """Return the function as it runs in ``fp32`` (itself), ``bf16`` or ``fp16`` mixed precision on the device."""
    if precision == "fp32":
        return function
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)(function)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it, which halves the time of a mid-size step on a CPU."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 1 << 25)  # the most that every glibc accepts
        mallopt(trim_threshold, (1 << 31) - 1)
