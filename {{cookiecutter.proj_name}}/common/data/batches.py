"""The passes over a loader, the engine's or any other, and their batches on the way to the device."""

from __future__ import annotations

import io
import math
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from common.config.errors import UserError, one_line
from common.data.dataset import generators_of
from common.data.loader import find_sizes_at, length_of, on_device, start_pass
from common.log.console import add_log
from common.run.distributed import gather, get_data_size, get_rank
from common.run.seed import put_states, random_state_kept, take_states
from common.run.strategy import move_to

_GENERATORS = (torch.Generator, np.random.Generator, random.Random)
_DEEP, _LONG = 5, 100  # where generators are looked for: attributes of attributes, and lists of at most so many items


def open_pass(loader: Any, epoch: int, start: int = 0) -> Iterator[dict]:
    """Return the batches of one pass over the engine's loader, from batch number ``start`` on, or over any other."""
    if find_sizes_at(loader):
        loader.batch_sampler.set_position(epoch, start)
        return iter(loader)
    return ForeignPasses(loader).open(epoch, start)


class ForeignPasses:
    """The passes over a loader that cannot start at any batch, so that a resume gets the batches of the uncut run.

    A loader with ``state_dict`` and ``load_state_dict`` goes on from its own state. For any other, a checkpoint holds
    the random states of the moment at which the pass began, also those of the generators that the loader, its sampler
    or its data set have as attributes. A resume puts them back, reads the pass again up to its place, and restores the
    random state of the training. ``is_whole``: whether each pass is read to its end.
    """

    def __init__(self, loader: Any, is_whole: bool = True):
        self._loader, self._is_whole = loader, is_whole
        self._is_stateful = _has_state(loader)
        self._generators = _find_generators(loader)
        self._batches: Iterator[dict] | None = None  # those of a loader with a state
        self._began: dict[str, Any] | None = None  # the random states at which this pass began
        self._loaded: dict[str, Any] | None = None  # the state that the next pass goes on from
        self._is_plain: bool | None = None  # whether the state can be in a checkpoint; None: not known yet

    def open(self, epoch: int, start: int) -> Iterator[dict]:
        """Return the batches of a pass from batch number ``start`` on."""
        loader, state, self._loaded = self._loader, self._loaded, None
        for part in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        if self._is_stateful:
            return self._open_stateful(state, start)
        if state:
            _set_generators(self._generators, (state["began"] if start else state)["generators"])
        with random_state_kept() if start else nullcontext():
            if state and start:
                put_states(state["began"]["random"])
            generators = [*map(_state_of, self._generators)]
            self._began = state["began"] if state and start else {"random": take_states(), "generators": generators}
            batches = start_pass(loader)
            for _ in range(start):
                next(batches, None)
        return batches

    def _open_stateful(self, state: dict[str, Any] | None, start: int) -> Iterator[dict]:
        if state:
            with random_state_kept():
                self._loader.load_state_dict(state["loader"])
                self._batches = start_pass(self._loader)
                _set_generators(self._generators, state["generators"])
        if self._batches is None or not (state and start):
            if self._batches is not None and self._is_whole:
                next(self._batches, None)  # there is none, and the loader notices the end of its pass
            self._batches = start_pass(self._loader)
            for _ in range(0 if state else start):  # from a checkpoint that lacks the state
                next(self._batches, None)
        return self._batches

    def state_dict(self) -> dict[int, Any]:
        """Return what each rank needs to go on. Collective."""
        state = self._loaded
        if state is None and (self._batches is not None or self._began is not None):
            own = {"loader": self._loader.state_dict()} if self._is_stateful else {"began": self._began}
            state = {**own, "generators": [*map(_state_of, self._generators)]}
        if state is not None and self._is_plain is None:
            self._is_plain = _is_plain(state)
        return dict(enumerate(gather(state if self._is_plain else None)))

    def load_state_dict(self, states: dict[int, Any]) -> None:
        """Go on from ``state_dict`` with the next pass."""
        self._loaded = states.get(get_rank())


def find_doubt(loader: Any) -> str | None:
    """Return why a run might not resume exactly within a pass over a loader, for people; None if it will."""
    dataset: Any = getattr(loader, "dataset", None)
    worker, name = getattr(loader, "num_workers", 0), type(loader).__name__
    if find_sizes_at(loader) or isinstance(loader, (list, tuple)):
        return None
    draws = worker > 0 and bool(generators_of(dataset))
    if _has_state(loader):
        return f"the state of {name} may lack the random numbers of its workers" if draws else None
    if isinstance(dataset, IterableDataset):
        return f"{type(dataset).__name__} is read anew up to the place of the cut, and may then give other samples"
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return f"{name} has no state_dict"
    for sampler in (loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None), loader.sampler):
        known = type(sampler).__module__.startswith("torch.utils.data") or hasattr(sampler, "set_epoch")
        if sampler is not None and not known:
            return f"{type(sampler).__name__} may draw random numbers between the steps"
    if loader.persistent_workers and draws:
        return "the random numbers of persistent workers go on from pass to pass"
    return None


def _has_state(loader: Any) -> bool:
    """Return whether a loader goes on from its own state: not over a stream without one, which it would miscount."""
    dataset = getattr(loader, "dataset", None)
    parts = [loader, dataset] if isinstance(dataset, IterableDataset) else [loader]
    return all(hasattr(part, name) for part in parts for name in ("state_dict", "load_state_dict"))


def _find_generators(loader: Any) -> list[Any]:
    """Return the generators among the attributes of a loader, its sampler, its data set and what these hold."""
    found: dict[int, Any] = {}
    seen, level = set(), [loader]
    for _ in range(_DEEP):
        level = [part for part in level if id(part) not in seen and not isinstance(part, (type, ModuleType))]
        seen |= {*map(id, level)}
        found |= {id(part): part for part in level if isinstance(part, _GENERATORS)}
        level = [item for part in level for item in _items_of(part)]
    return list(found.values())


def _items_of(part: Any) -> Iterable[Any]:
    if isinstance(part, (list, tuple)):
        return part if len(part) <= _LONG else ()
    return part.values() if isinstance(part, dict) else getattr(part, "__dict__", {}).values()


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, torch.Generator) else generator.getstate()


def _set_generators(generators: list[Any], states: list[Any]) -> None:
    for generator, state in zip(generators, states, strict=False):
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
        else:
            generator.set_state(state) if isinstance(generator, torch.Generator) else generator.setstate(state)


def _is_plain(state: Any) -> bool:
    """Return whether a state can be read back from a checkpoint; warn if it cannot."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    except Exception as error:
        text = "the state of the training loader is more than plain values and tensors, so that checkpoints lack it"
        add_log(f"{text}, and a resume within a pass is not exact: {one_line(error)}", "WARNING")
        return False
    return True


class TrainingBatches:
    """The batches of epoch after epoch on the device; the gradients of ``accumulate`` batches make an optimizer step.

    By epochs, each epoch is one pass over the loader. By iterations, an epoch resumes where the last one stopped: the
    position in the passes follows from the number of iterations made.
    """

    def __init__(self, loader: Any, by_epoch: bool, per_epoch: int | None, accumulate: int, device: torch.device):
        self._length = length_of(loader)
        if not (per_epoch or self._length):
            raise UserError("dataset.train: its loader has no length; set progress.iters_per_epoch")
        self.loader, self.by_epoch, self.per_epoch = loader, by_epoch, per_epoch or self._length or 0
        self.transform = getattr(loader, "transform_batch", None)
        # Optimizer steps an epoch; an accumulation window never reaches into the next epoch.
        self.steps_per_epoch = math.ceil(self.per_epoch / accumulate)
        self._accumulate, self._device, self._data_size = accumulate, device, get_data_size()
        # A loader that does not tell its batches' sizes counts them alike.
        self._sizes_at = find_sizes_at(loader) or (lambda batch: (1, self._data_size))
        is_whole = not by_epoch or self.per_epoch == self._length
        self.foreign = None if find_sizes_at(loader) else ForeignPasses(loader, is_whole)
        self._endless: Iterator[dict] | None = None
        self._first = 0  # the position in the passes of this epoch's first batch

    def open(self, epoch: int, iteration: int, total: int) -> Iterator[dict]:
        """Return the batches of an epoch from an iteration on, after ``total`` iterations of the run."""
        if self.by_epoch:
            return self._on_device(self._open_pass(epoch, iteration))
        self._first = total - iteration
        if self._endless is None:
            self._endless = self._on_device(self._passes(total))
        return self._endless

    def _open_pass(self, epoch: int, start: int) -> Iterator[dict]:
        if self.foreign is None:
            return open_pass(self.loader, epoch, start)
        # Not to the very end, as by epochs: there some samplers draw a random number more.
        return islice(self.foreign.open(epoch, start), self._length and self._length - start)

    def _on_device(self, batches: Iterable[dict]) -> Iterator[dict]:
        if self.foreign:  # a batch read ahead would draw its random numbers too early
            return (move_to(batch, self._device) for batch in batches)
        return on_device(batches, self._device)

    def _passes(self, done: int) -> Iterator[dict]:
        epoch, start = divmod(done, self._length or sys.maxsize)
        while True:
            yield from self._open_pass(epoch, start)
            epoch, start = epoch + 1, 0

    def steps_before(self, epoch: int, iteration: int) -> int | None:
        """Return the optimizer steps up to an iteration of an epoch; None within an accumulation window."""
        if iteration % self._accumulate and iteration < self.per_epoch:
            return None
        return epoch * self.steps_per_epoch + math.ceil(iteration / self._accumulate)

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
