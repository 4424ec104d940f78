"""A loader's batches from any point on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from common.run.device import move_to
from common.state.host_copy import map_nested


def open_pass(loader: DataLoader, epoch: int, start: int = 0) -> Iterator[dict]:
    """Return the batches of one pass over a loader, from batch number ``start`` on.

    A ``PositionedBatchSampler`` jumps there; with another loader the batches before are drawn and dropped, and its
    sampler's ``set_epoch`` is called.
    """
    if find_sizes_at(loader):
        loader.batch_sampler.set_position(epoch, start)
        return iter(loader)
    if hasattr(getattr(loader, "sampler", None), "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return islice(iter(loader), start, None)


def find_sizes_at(loader: DataLoader) -> Callable[[int], tuple[int, int]] | None:
    """Return the function that tells how many samples a batch holds, on this rank and on all, or None if none can."""
    return getattr(getattr(loader, "batch_sampler", None), "sizes_at", None)


def find_transform(loader: DataLoader | None) -> Callable[[dict], dict] | None:
    """Return what a loader wants done to its batches on the device, ``dataset.<split>.batch_transforms``, or None."""
    return getattr(loader, "transform_batch", None)


def on_device(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Return the batches on the device; to an accelerator each is copied while the one before is worked on."""
    if device.type == "cuda":
        return prefetch(batches, device)
    return iter(batches) if device.type == "cpu" else (move_to(batch, device) for batch in batches)


def prefetch(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Yield batches, each copied to the device on a stream of its own while the one before is worked on.

    The copy runs beside the computation from pinned memory only. Source: the note "CUDA semantics" of PyTorch.
    """
    backend = torch.get_device_module(device)
    stream, upcoming = backend.Stream(), None
    for batch in batches:
        with backend.stream(stream):
            copied = move_to(batch, device)
        if upcoming is not None:
            yield upcoming
        backend.current_stream().wait_stream(stream)
        map_nested(copied, partial(_keep_for, backend.current_stream()))
        upcoming = copied
    if upcoming is not None:
        yield upcoming


def _keep_for(stream: torch.Stream, _path: tuple, value: Any) -> Any:
    """Tell the allocator that a tensor made on another stream is used on this one, so that it does not reuse it."""
    if isinstance(value, torch.Tensor) and not value.is_cpu:
        value.record_stream(stream)
    return value


def stop_workers(loader: DataLoader | None) -> None:
    """End a loader's persistent workers, which otherwise live until Python happens to collect the loader."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        with suppress(RuntimeError):  # that one of them has died already
            iterator._shutdown_workers()
        loader._iterator = None
