"""Devices: which one this process uses, how nested data gets there, and in what precision it computes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from common.config.errors import UserError
from common.run.nested import map_nested

GpuIds = int | list[int] | str | None


def gpu_numbers(gpu_ids: GpuIds) -> list[int | None]:
    """Return ``gpu_ids`` as a list of numbers; ``[None]`` if it is not set."""
    if isinstance(gpu_ids, str):
        return [int(part) for part in gpu_ids.split(",")]
    return [*gpu_ids] if isinstance(gpu_ids, list) else [gpu_ids]


def check_gpus(gpu_ids: GpuIds) -> None:
    """Check that the GPUs that a config names are there.

    Raises:
        UserError: One is not.
    """
    found, numbers = torch.cuda.device_count(), [number for number in gpu_numbers(gpu_ids) if number is not None]
    if numbers and max(numbers) >= found:
        raise UserError(f"--gpu_ids {gpu_ids}: found {found} GPUs; -1 means the CPU")


def choose_device(gpu_ids: GpuIds, one_process: bool = False) -> torch.device:
    """Return the device of this process.

    Args:
        gpu_ids: None for the best one available, -1 for the CPU, or numbers of GPUs; a process takes the one at its
            local rank.
        one_process: A single process feeds all of the GPUs; its own is the first.

    Raises:
        UserError: No such GPU, or another number of processes on this machine than GPUs were named.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    found, numbers = torch.cuda.device_count(), gpu_numbers(gpu_ids)
    if numbers == [None] and not found:
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if numbers == [-1]:
        return torch.device("cpu")
    if numbers == [None]:
        # srun may show each process nothing but its own GPU.
        numbers = [0] * local_size if found == 1 else [*range(local_size)]
    if len(numbers) != local_size and not one_process:
        raise UserError(f"--gpu_ids {gpu_ids}: {len(numbers)} GPUs for {local_size} processes on this machine")
    number = numbers[local_rank]
    if number is None or number >= found:
        raise UserError(f"--gpu_ids {gpu_ids}: found {found} GPUs for {local_size} processes on this machine")
    return torch.device("cuda", number)


def move_to(data: Any, device: torch.device) -> Any:
    """Return nested data with every tensor on the device. From pinned memory the copy runs beside the computation."""
    return map_nested(data, lambda _, value: value.to(device, non_blocking=True) if torch.is_tensor(value) else value)


def in_precision(function: Callable, device: torch.device, precision: str) -> Callable:
    """Return the function as it runs in ``fp32`` (itself), ``bf16`` or ``fp16`` mixed precision on the device."""
    if precision == "fp32":
        return function
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)(function)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step; it otherwise returns it and faults it in again.

    This halves the time of a mid-size step on a CPU. Nothing happens where there is no glibc.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(mmap_threshold, 1 << 25)  # the most that every glibc accepts
        mallopt(trim_threshold, (1 << 31) - 1)
