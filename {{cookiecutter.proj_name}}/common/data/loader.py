"""Loaders whose order depends on seed, epoch and position alone, and their batches on the way to a training."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor
from torch.utils.data import DataLoader

from common.config.console import protect_console
from common.data.dataset import PositionedBatchSampler, SampleReader, collate
from common.run.distributed import get_data_size, let_threads_rest
from common.run.signals import end_with_parent, ignore_child_exits, ignore_signals
from common.run.strategy import map_nested, move_to

_SMALL = 1 << 18  # bytes: above them shared memory is as fast as a copy


class Loader(DataLoader):
    """A loader that raises for a dead worker, within 5 s, where it is asked for a batch.

    torch's own handler raises wherever Python happens to be, even within a step or a save.
    """

    dataset: Any
    batch_sampler: Any
    transform_batch: Callable[[dict], dict] | None = None

    def __iter__(self) -> Any:
        if not self.num_workers and not self.pin_memory:  # torch's iterator takes as long as a batch from memory does
            return map(self.collate_fn, map(self.dataset.__getitems__, self.batch_sampler))
        if self.num_workers:
            let_threads_rest()
        batches = super().__iter__()
        ignore_child_exits()
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
    **reading: Any,
) -> Loader:
    """Return the loader of a map-style data set for this rank.

    Args:
        batch_size: Samples per batch on one rank.
        worker: Number of processes that load data.
        training: Shuffle anew every epoch; otherwise the samples come in order.
        seed: Seed of the order and of each sample's random numbers.
        transform_batch: What trainers and testers apply to each batch once it is on the device.
        **reading: ``where``, ``replace`` and ``limit`` of the ``SampleReader`` around the data set.
    """
    loader = Loader(
        SampleReader(dataset, seed, **reading),
        batch_sampler=PositionedBatchSampler(len(dataset), batch_size, training, seed, drop_last),
        num_workers=worker,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers and worker > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # its own, so that the start of an epoch draws nothing from the trainer's
    )
    loader.transform_batch = transform_batch
    return loader


def _start_worker(_number: int) -> None:
    """Make a worker end with its trainer, whose connections to other ranks it would keep open otherwise."""
    protect_console()  # where the worker is no fork of the trainer
    ForkingPickler.register(torch.Tensor, _hand_over)
    ignore_signals()
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if multiprocessing.get_start_method() == "fork" and parent and os.getppid() != parent.pid:
        os._exit(1)  # the trainer has died already


def _hand_over(tensor: torch.Tensor) -> tuple[Callable, tuple]:
    """Pickle a tensor of a worker: a small one is copied, which is faster than sharing its memory."""
    with suppress(TypeError, RuntimeError):  # no such array exists, as for bfloat16 or a sparse tensor
        if tensor.nbytes <= _SMALL:
            return torch.from_numpy, (tensor.numpy(),)
    return reduce_tensor(tensor)


def stop_workers(loader: Any) -> None:
    """End the persistent workers of a loader, which otherwise live until Python collects the loader."""
    if getattr(loader, "_iterator", None) is not None:
        with suppress(RuntimeError):  # one of them has died already
            loader._iterator._shutdown_workers()
        loader._iterator = None


def find_sizes_at(loader: Any) -> Callable[[int], tuple[int, int]] | None:
    """Return the function that tells the size of a batch on this rank and on all, or None if the loader has none."""
    return getattr(getattr(loader, "batch_sampler", None), "sizes_at", None)


def open_pass(loader: DataLoader, epoch: int, start: int = 0) -> Iterator[dict]:
    """Return the batches of one pass over a loader, from batch number ``start`` on."""
    batch_sampler: Any = getattr(loader, "batch_sampler", None)
    if hasattr(batch_sampler, "set_position"):
        batch_sampler.set_position(epoch, start)
        return iter(loader)
    sampler = getattr(loader, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    return islice(iter(loader), start, None)  # a foreign loader reads the batches before, too


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
        upcoming = map_nested(copied, keep_memory)
    if upcoming is not None:
        yield upcoming


class TrainingBatches:
    """The batches of epoch after epoch on the device; the gradients of ``accumulate`` batches make an optimizer step.

    By epochs, each epoch is one pass over the loader. By iterations, an epoch resumes where the last one stopped: the
    position in the passes follows from the number of iterations made.
    """

    def __init__(self, loader: Any, by_epoch: bool, per_epoch: int | None, accumulate: int, device: torch.device):
        self.loader, self.by_epoch, self.per_epoch = loader, by_epoch, per_epoch or len(loader)
        self.transform = getattr(loader, "transform_batch", None)
        # Optimizer steps an epoch; an accumulation window never reaches into the next epoch.
        self.steps_per_epoch = math.ceil(self.per_epoch / accumulate)
        self._accumulate, self._device, self._data_size = accumulate, device, get_data_size()
        # A loader that does not tell its batches' sizes counts them alike.
        self._sizes_at = find_sizes_at(loader) or (lambda batch: (1, self._data_size))
        self._endless: Iterator[dict] | None = None
        self._first = 0  # the position in the passes of this epoch's first batch

    def open(self, epoch: int, iteration: int, total: int) -> Iterator[dict]:
        """Return the batches of an epoch from an iteration on, after ``total`` iterations of the run."""
        if self.by_epoch:
            return on_device(open_pass(self.loader, epoch, iteration), self._device)
        self._first = total - iteration
        if self._endless is None:
            self._endless = on_device(self._passes(total), self._device)
        return self._endless

    def _passes(self, done: int) -> Iterator[dict]:
        epoch, start = divmod(done, len(self.loader))
        while True:
            yield from open_pass(self.loader, epoch, start)
            epoch, start = epoch + 1, 0

    def window(self, iteration: int) -> tuple[bool, float | None, int]:
        """Return whether a batch closes its accumulation window, the weight of its loss, and its samples on this rank.

        The weight is the batch's share of the window's samples on all ranks, times the number of ranks, since these
        average their gradients; None for 1.
        """
        size, whole = self._sizes_at(self._first + iteration)
        closes_window = True
        if self._accumulate > 1:
            start = iteration - iteration % self._accumulate
            stop = min(start + self._accumulate, self.per_epoch)
            closes_window = iteration + 1 == stop
            whole = sum(self._sizes_at(self._first + i)[1] for i in range(start, stop))
        weight = size * self._data_size / whole
        return closes_window, None if weight == 1 else weight, size
