"""The batches of a loader, from any point on, on their way to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from common.run.device import move_to
from common.run.nested import map_nested


def open_pass(loader: DataLoader, epoch: int, start: int = 0) -> Iterator[dict]:
    """Return the batches of one pass over a loader, from batch number ``start`` on.

    A ``PositionedBatchSampler`` starts there. With any other loader the batches before are read and dropped, and its
    sampler's ``set_epoch`` is called.
    """
    if find_sizes_at(loader):
        loader.batch_sampler.set_position(epoch, start)
        return iter(loader)
    if hasattr(getattr(loader, "sampler", None), "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return islice(iter(loader), start, None)


def find_sizes_at(loader: DataLoader) -> Callable[[int], tuple[int, int]] | None:
    """Return the function that tells the size of a batch on this rank and on all, or None if the loader has none."""
    return getattr(getattr(loader, "batch_sampler", None), "sizes_at", None)


def find_transform(loader: DataLoader | None) -> Callable[[dict], dict] | None:
    """Return what is applied to a loader's batches on the device, ``dataset.<split>.batch_transforms``, or None."""
    return getattr(loader, "transform_batch", None)


def on_device(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Return the batches on the device; a GPU receives each while it computes with the one before."""
    if device.type == "cuda":
        return prefetch(batches, device)
    return iter(batches) if device.type == "cpu" else (move_to(batch, device) for batch in batches)


def prefetch(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Yield batches on the device, each copied on a stream of its own while the one before is in use.

    The copy overlaps with the computation from pinned memory only. Source: the note "CUDA semantics" of PyTorch.
    """
    backend = torch.get_device_module(device)
    stream, upcoming = backend.Stream(), None

    def keep_memory(_path: tuple, value: Any) -> Any:
        """Tell the allocator that the computation's stream, too, uses this memory, so that it is not reused early."""
        if isinstance(value, torch.Tensor) and not value.is_cpu:
            value.record_stream(backend.current_stream())
        return value

    for batch in batches:
        with backend.stream(stream):
            copied = move_to(batch, device)
        if upcoming is not None:
            yield upcoming
        backend.current_stream().wait_stream(stream)
        map_nested(copied, keep_memory)
        upcoming = copied
    if upcoming is not None:
        yield upcoming


def stop_workers(loader: DataLoader | None) -> None:
    """End the persistent workers of a loader, which otherwise live until Python collects the loader."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        with suppress(RuntimeError):  # one of them has died already
            iterator._shutdown_workers()
        loader._iterator = None
