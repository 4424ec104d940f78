"""A loader's batches from any point on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from torch.utils.data import DataLoader


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


def stop_workers(loader: DataLoader | None) -> None:
    """End a loader's persistent workers, which otherwise live until Python happens to collect the loader."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None:
        with suppress(RuntimeError):  # that one of them has died already
            iterator._shutdown_workers()
        loader._iterator = None
