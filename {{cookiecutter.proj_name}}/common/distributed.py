"""Who am I among the processes, and the few collectives the engine needs. With one process all of it is free."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def is_distributed() -> bool:
    """Return whether a process group of torch.distributed is up."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Return this process's number among all processes; 0 writes the files."""
    return dist.get_rank() if is_distributed() else 0


def get_local_rank() -> int:
    """Return this process's number on its machine, which is also the number of its GPU among the visible ones."""
    return int(os.environ.get("LOCAL_RANK", 0)) if is_distributed() else 0


def get_world_size() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if is_distributed() else 1


def master_only(function: Callable) -> Callable:
    """Decorate a function so that it runs on rank 0 only; elsewhere it does nothing and returns None."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs) if get_rank() == 0 else None

    return wrapper


def barrier() -> None:
    """Wait for all processes."""
    if is_distributed():
        dist.barrier()


def broadcast(value: Any) -> Any:
    """Return rank 0's value (any picklable object) on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Return the values (any picklable object) of all ranks, in the order of ranks, on every rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


def reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks, on every rank; the tensor itself is left unchanged."""
    if not is_distributed():
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor


def any_rank(flag: bool) -> bool:
    """Return on every rank whether the flag is set on at least one: how all agree on what to do next."""
    return any(gather(flag))
