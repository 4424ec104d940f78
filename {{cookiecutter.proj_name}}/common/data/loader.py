"""Loaders whose order depends on seed, epoch and position alone; any loader's workers and way to the device."""

from __future__ import annotations

import multiprocessing
import os
import signal
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader

from common.config.console import protect_console
from common.config.registry import open_room
from common.data.dataset import PositionedBatchSampler, SampleReader, collate
from common.run.distributed import let_threads_rest
from common.run.signals import end_with_parent, ignore_child_exits, ignore_signals
from common.run.strategy import map_nested, move_to

_SMALL = 1 << 18  # bytes: above them shared memory is as fast as a copy


class Loader(DataLoader):
    """A loader that raises for a dead worker, within 5 s, where it is asked for a batch.

    torch's own handler raises wherever Python happens to be, even within a step or a save.
    """

    dataset: Any
    batch_sampler: Any
    running_pass: Callable[[], Any]
    transform_batch: Callable[[dict], dict] | None = None
    size_of: Callable[[dict], int] | None = None  # where not samples are counted

    def __iter__(self) -> Any:
        if not self.num_workers and not self.pin_memory:  # torch's iterator takes as long as a batch from memory does
            return map(self.collate_fn, map(self.dataset.__getitems__, self.batch_sampler))
        if self.num_workers:
            let_threads_rest()
        batches = super().__iter__()
        ignore_child_exits()
        self.running_pass = weakref.ref(batches)
        return batches


def make_loader(
    dataset: Any,
    batch_size: int,
    worker: int = 0,
    training: bool = False,
    seed: int = 0,
    pin_memory: bool = False,
    persistent_workers: bool = True,
    drop_last: bool = False,
    transform_batch: Callable[[dict], dict] | None = None,
    collate_fn: Callable[[Any], Any] = collate,
    loader: str = "process",
    **reading: Any,
) -> Loader:
    """Return the loader of a map-style data set for this rank.

    Args:
        batch_size: Samples per batch on one rank.
        worker: Number of processes, or threads, that load data.
        training: Shuffle anew every epoch; otherwise the samples come in order.
        seed: Seed of the order and of each sample's random numbers.
        transform_batch: What trainers and testers apply to each batch once it is on the device.
        collate_fn: Makes a batch of a list of samples; its ``size_of(batch)``, if it has such, counts the batch.
        loader: ``process`` or ``thread``.
        **reading: ``where``, ``replace`` and ``limit`` of the ``SampleReader`` around the data set.
    """
    kind: Any = Loader
    if loader == "thread":
        kind, worker = partial(open_room("loading.threads", "loader: thread").ThreadLoader, threads=worker), 0
    made = kind(
        SampleReader(dataset, seed, **reading),
        batch_sampler=PositionedBatchSampler(len(dataset), batch_size, training, seed, drop_last),
        num_workers=worker,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and worker > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own, so that the start of an epoch draws nothing from the trainer's
    )
    made.transform_batch, made.size_of = transform_batch, getattr(collate_fn, "size_of", None)
    return made


def start_pass(loader: Any) -> Iterator[dict]:
    """Return an iterator over any loader, whose workers outlive a signal to all of the run's processes."""
    if isinstance(loader, Loader) or not getattr(loader, "num_workers", 0):
        return iter(loader)
    own = loader.worker_init_fn
    if getattr(own, "func", None) is not _start_worker:
        loader.worker_init_fn = partial(_start_worker, own=own)
    let_threads_rest()
    batches = iter(loader)
    ignore_child_exits()
    loader.running_pass = weakref.ref(batches)
    return batches


def _start_worker(number: int, own: Callable[[int], Any] | None = None) -> None:
    """Make a worker end with its trainer, whose connections to other ranks it would keep open otherwise."""
    protect_console()  # where the worker is no fork of the trainer
    ForkingPickler.register(torch.Tensor, _hand_over)
    ignore_signals()
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if multiprocessing.get_start_method() == "fork" and parent and os.getppid() != parent.pid:
        os._exit(1)  # the trainer has died already
    if own:
        own(number)


def _hand_over(tensor: torch.Tensor) -> tuple[Callable, tuple]:
    """Pickle a tensor of a worker: a small one is copied, which is faster than sharing its memory."""
    with suppress(TypeError, RuntimeError):  # no such array exists, as for bfloat16 or a sparse tensor
        if tensor.nbytes <= _SMALL:
            return torch.from_numpy, (tensor.numpy(),)
    return reduce_tensor(tensor)


def stop_workers(loader: Any) -> None:
    """End a loader's workers, which otherwise live until Python collects it, or hinder its end."""
    for batches in (getattr(loader, "_iterator", None), getattr(loader, "running_pass", lambda: None)()):
        if hasattr(batches, "_shutdown_workers"):
            with suppress(RuntimeError):  # one of them has died already
                batches._shutdown_workers()
            loader._iterator = None


def batch_size_of(loader: Any) -> int:
    """Return the samples per batch on one rank; 1 for a loader that does not tell."""
    return getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", 1)


def length_of(loader: Any) -> int | None:
    """Return the number of batches in a pass over any loader, or None if it does not know."""
    try:
        return len(loader)
    except TypeError:
        return None


def unless_empty(loader: Any) -> Any:
    """Return a loader, or None for one without a batch; one that does not know its length may have some."""
    return None if loader is None or length_of(loader) == 0 else loader


def find_sizes_at(loader: Any) -> Callable[[int], tuple[int, int]] | None:
    """Return the function that tells the size of a batch on this rank and on all, or None if the loader has none."""
    return getattr(getattr(loader, "batch_sampler", None), "sizes_at", None)


def join_batches(batches: list[tuple[dict, ...]]) -> tuple[dict, ...]:
    """Return the dicts of several batches, such as their data and outputs, as one batch; the first if shapes differ."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], torch.Tensor) and values[0].ndim:
            return torch.cat(values)
        return [item for value in values for item in value] if isinstance(values[0], list) else values[0]

    if len(batches) == 1:
        return batches[0]
    with suppress(RuntimeError):
        return tuple({key: join([d[key] for d in dicts]) for key in dicts[0]} for dicts in zip(*batches, strict=True))
    return batches[0]


def on_device(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """Return the batches on the device; a GPU receives each while it computes with the one before."""
    if device.type == "cuda":
        return prefetch(batches, device)
    batches = start_pass(batches)
    return batches if device.type == "cpu" else (move_to(batch, device) for batch in batches)


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

    for batch in start_pass(batches):
        with backend.stream(stream):
            copied = move_to(batch, device)
        if upcoming is not None:
            yield upcoming
        backend.current_stream().wait_stream(stream)
        upcoming = map_nested(copied, keep_memory)
    if upcoming is not None:
        yield upcoming
