"""Loaders that are not the engine's: what a resume needs to go on exactly, and whether it can."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from common.config.errors import one_line
from common.data.batches import open_pass, set_epoch, starts_anywhere
from common.data.dataset import generators_of
from common.data.loader import start_pass
from common.log.console import add_log
from common.run.distributed import gather, get_rank
from common.run.seed import put_states, random_state_kept, take_states

_GENERATORS = (torch.Generator, np.random.Generator, random.Random)
_DEEP, _LONG = 5, 100  # where generators are looked for: attributes of attributes, and lists of at most so many items


def find_passes(loader: Any, is_whole: bool) -> Any:
    """Return what opens the passes over a loader and tells what a resume needs: for a stream, its loader itself."""
    return loader if hasattr(loader, "is_endless") else ForeignPasses(loader, is_whole)


class ForeignPasses:
    """The passes over a loader that cannot start at any batch, so that a resume gets the batches of the uncut run.

    A loader with ``state_dict`` and ``load_state_dict`` goes on from its own state. For any other, a checkpoint holds
    the random states of the moment at which the pass began, also those of the generators that the loader, its sampler
    or its data set have as attributes. A resume puts them back, reads the pass again up to its place, and restores the
    random state of the training. ``is_whole``: whether each pass is read to its end.
    """

    def __init__(self, loader: Any, is_whole: bool = True):
        self._loader, self._is_whole = loader, is_whole
        self._is_stateful = _goes_on(loader)
        self._generators = find_generators(loader)
        self._batches: Iterator[dict] | None = None  # those of a loader with a state
        self._began: dict[str, Any] | None = None  # the random states at which this pass began
        self._loaded: dict[str, Any] | None = None  # the state that the next pass goes on from
        self._is_plain: bool | None = None  # whether the state can be in a checkpoint; None: not known yet

    def open(self, epoch: int, start: int) -> Iterator[dict]:
        """Return the batches of a pass from batch number ``start`` on."""
        loader, state, self._loaded = self._loader, self._loaded, None
        if self._is_stateful:
            set_epoch(loader, epoch)
            return self._open_stateful(state, start)
        if state:
            set_generators(self._generators, (state["began"] if start else state)["generators"])
        with random_state_kept() if start else nullcontext():
            if state and start:
                put_states(state["began"]["random"])
            generators = [*map(state_of, self._generators)]
            self._began = state["began"] if state and start else {"random": take_states(), "generators": generators}
            return open_pass(loader, epoch, start)

    def _open_stateful(self, state: dict[str, Any] | None, start: int) -> Iterator[dict]:
        if state:
            with random_state_kept():
                self._loader.load_state_dict(state["loader"])
                self._batches = start_pass(self._loader)
                set_generators(self._generators, state["generators"])
        if self._batches is None or not (state and start):
            if self._batches is not None and self._is_whole:
                next(self._batches, None)  # there is none, and the loader notices the end of its pass
            self._batches = start_pass(self._loader)
            for _ in range(0 if state else start):  # from a checkpoint that lacks the state
                next(self._batches, None)
        return self._batches

    def state_dict(self) -> dict[int, Any]:
        """Return what each rank needs to go on. Collective."""
        return dict(enumerate(gather(self.own_state())))

    def own_state(self) -> dict[str, Any] | None:
        """Return what this rank needs to go on; None at the beginning, and if no checkpoint can hold it."""
        state = self._loaded
        if state is None and (self._batches is not None or self._began is not None):
            own = {"loader": self._loader.state_dict()} if self._is_stateful else {"began": self._began}
            state = {**own, "generators": [*map(state_of, self._generators)]}
        if state is not None and self._is_plain is None:
            self._is_plain = _is_plain(state)
        return state if self._is_plain else None

    def load_state_dict(self, states: dict[int, Any]) -> None:
        """Go on from ``state_dict`` with the next pass."""
        self._loaded = states.get(get_rank())


def find_doubt(loader: Any) -> str | None:
    """Return why a run might not resume exactly within a pass over a loader, for people; None if it will."""
    dataset: Any = getattr(loader, "dataset", None)
    worker, name = getattr(loader, "num_workers", 0), type(loader).__name__
    if starts_anywhere(loader) or hasattr(loader, "is_endless") or isinstance(loader, (list, tuple)):
        return None
    draws = worker > 0 and bool(generators_of(dataset))
    if _goes_on(loader):
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


def has_state(part: Any) -> bool:
    """Return whether a loader or a data set gives and takes its own state."""
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _goes_on(loader: Any) -> bool:
    """Return whether a loader goes on from its own state: not over a stream without one, which it would miscount."""
    dataset = getattr(loader, "dataset", None)
    parts = [loader, dataset] if isinstance(dataset, IterableDataset) else [loader]
    return all(map(has_state, parts))


def find_generators(loader: Any) -> list[Any]:
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


def state_of(generator: Any) -> Any:
    """Return the state of a generator as plain values."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state() if isinstance(generator, torch.Generator) else generator.getstate()


def set_generators(generators: list[Any], states: list[Any]) -> None:
    """Put generators back to what ``state_of`` returned of each."""
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
