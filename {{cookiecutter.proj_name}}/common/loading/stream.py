"""Streams: data sets that can only be read from their beginning on, such as an ``IterableDataset``."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from common.config.errors import RunError, UserError, one_line
from common.data.dataset import collate, generators_of, seed_generators
from common.data.loader import start_pass
from common.loading.foreign import find_generators, has_state, set_generators, state_of
from common.loading.threads import read_ahead, refuse_drawing
from common.log.console import add_log
from common.run.distributed import gather, get_data_rank, get_data_size, get_rank
from common.run.seed import derive_seed, put_states, random_state_kept, take_states


@dataclass
class _Options:
    """How a stream is read."""

    batch_size: int
    training: bool
    seed: int
    transforms: Any
    collate_fn: Callable[[list], Any]
    max_samples: int | None
    where: str


def make_stream_loader(dataset: IterableDataset, replaces: bool, **options: Any) -> StreamLoader:
    """Return the loader of a stream; raise a UserError for a key that would be without effect."""
    where = options["where"]
    for key in options.keys() & {"persistent_workers", "drop_last", "sample_rate"}:
        raise UserError(f"{where}.{key}: without effect, since {type(dataset).__name__} is a stream")
    if replaces:
        raise UserError("dataset.bad_sample: expected raise: a stream cannot be read on behind a sample that fails")
    return StreamLoader(dataset, **options)


class StreamLoader:
    """The batches of a stream, the same on any number of processes and workers.

    Step ``i`` of all ranks together takes the next ``batch_size`` × ranks samples, and each rank every so many-th of
    them, as a loader of ``make_loader`` does. So each rank and each worker reads the whole stream, and transforms and
    collates only its own samples. Where that costs too much, the data set sets ``divides_itself``, and yields only what
    its rank and worker (``torch.utils.data.get_worker_info``) is to read.

    In training, a stream that ends begins anew at once, each rank by itself: all batches are full, and there are as
    many as asked for. ``set_epoch`` of the data set, if it has such, gets the number of the pass. In an evaluation the
    stream is read once; a rank that has no sample left in the last step repeats one, which does not count.

    A resume goes on exactly. A data set with ``state_dict`` and ``load_state_dict``, as those of Hugging Face and
    litdata, returns to its state; any other is read again up to its place in the pass, which must give the same samples
    again. The generators that it declares in ``random_generators``, by default all three, are seeded for each pass.

    Args:
        dataset: Yields samples.
        batch_size: Samples per batch on one rank.
        worker: Number of processes that read; with ``loader="thread"``, of batches that a thread reads ahead.
        training: Read it again and again.
        seed: Seed of the generators that it and its transforms draw from.
        pin_memory: Whether batches are in page-locked memory.
        transforms: What is applied to each sample.
        transform_batch: What trainers and testers apply to each batch once it is on the device.
        collate_fn: Makes a batch of a list of samples.
        max_samples: Read at most so many.
        where: The config's key of the data set, for messages.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        batch_size: int,
        worker: int = 0,
        training: bool = False,
        seed: int = 0,
        pin_memory: bool = False,
        transforms: Callable | None = None,
        transform_batch: Callable[[dict], dict] | None = None,
        collate_fn: Callable[[list], dict] = collate,
        max_samples: int | None = None,
        loader: str = "process",
        where: str = "data",
    ):
        if loader == "thread":
            refuse_drawing(f"{where}.loader", dataset, transforms)
        self.dataset, self.batch_size, self.transform_batch = dataset, batch_size, transform_batch
        self.is_endless, self.size_of = training, getattr(collate_fn, "size_of", None)
        self._options = _Options(batch_size, training, seed, transforms, collate_fn, max_samples, where)
        self._ahead, self._worker = (worker, 0) if loader == "thread" else (0, worker)
        self._pin_memory = pin_memory
        self._states: dict[int, Any] = {}  # of each worker, as it was after its last batch
        self._done = self._size = 0  # batches so far, and the samples of the last one
        self._batches: Iterator[dict] | None = None
        if training:
            add_log(f"{where}: {self._describe()}")

    def _describe(self) -> str:
        name, readers = type(self.dataset).__name__, "processes and workers"
        parts = f"divides itself among {readers}" if divides_itself(self.dataset) else f"is read whole by all {readers}"
        resumed = "returns to its state" if has_state(self.dataset) else "reads it again up to its place"
        return f"the stream {name} {parts}; where it ends it begins anew; a resume {resumed}"

    def __len__(self) -> int:
        """Return the steps of a pass; a TypeError if the data set has no length, or only its own part's."""
        if divides_itself(self.dataset):
            raise TypeError("a stream that divides itself has no length")
        samples = len(self.dataset)  # type: ignore[arg-type]
        samples, step = min(samples, self._options.max_samples or samples), self.batch_size * get_data_size()
        return max(1, samples // step) if self.is_endless else -(-samples // step)

    @property
    def batch_sampler(self) -> StreamLoader:
        """What tells ``sizes_at`` and ``places_at``."""
        return self

    def sizes_at(self, batch: int) -> tuple[int, int]:
        """Return the number of samples in a batch on this rank and on all; in an evaluation, of the last one read."""
        size = self.batch_size if self.is_endless else self._size
        return size, self.batch_size * get_data_size()

    def places_at(self, batch: int) -> range:
        """Return the numbers of a batch's samples in the stream, or in this rank's part where it divides itself."""
        rank, ranks = (0, 1) if divides_itself(self.dataset) else (get_data_rank(), get_data_size())
        first = batch * self.batch_size * ranks + rank
        return range(first, first + self._size * ranks, ranks)

    def open(self, epoch: int, start: int) -> Iterator[dict]:
        """Return the batches of a training from where they are; a checkpoint without a state has them read again."""
        if self._batches is None:
            self._batches = self._read()
            if not self._done:
                skipped = start + (epoch * len(self) if epoch else 0)
                next(itertools.islice(self._batches, skipped, skipped), None)
        return self._batches

    def __iter__(self) -> Iterator[dict]:
        """Return the batches from the beginning of the stream on."""
        self._states, self._done = {}, 0
        return self._read()

    def _read(self) -> Iterator[dict]:
        before, now = len(self._states), max(1, self._worker)
        if divides_itself(self.dataset) and before not in (0, min(now, self._done)):
            raise UserError(f"{self._options.where}.worker: the stream was divided among {before}, found {now}")
        reader = _Reader(self.dataset, self._options)
        reader.states, reader.done = self._states, self._done
        loader = DataLoader(
            reader,
            batch_size=None,
            num_workers=self._worker,
            pin_memory=self._pin_memory,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # its own, so that the start draws nothing from the trainer's
        )
        batches = read_ahead(start_pass(loader), self._ahead) if self._ahead else start_pass(loader)
        self.running_pass = getattr(loader, "running_pass", lambda: None)
        for batch, self._size, state in batches:
            if batch is not None:
                number = self._done % now
                self._states.pop(number, None)  # so that the newest comes last
                self._states[number] = state
                self._done += 1
                yield batch

    def state_dict(self) -> dict[int, Any]:
        """Return what each rank needs to go on. Collective."""
        return dict(enumerate(gather(self.own_state())))

    def own_state(self) -> dict[str, Any]:
        """Return what this rank needs to go on."""
        return {"done": self._done, "states": dict(self._states)}

    def load_state_dict(self, states: dict[int, Any]) -> None:
        """Go on from ``state_dict``."""
        own = states.get(get_rank(), {"done": 0, "states": {}})
        self._states, self._done, self._batches = own["states"], own["done"], None


class _Reader(IterableDataset):
    """Reads the batches of one rank, or of one of its workers, each with its size and the state behind it."""

    def __init__(self, dataset: Any, options: _Options):
        self.dataset, self.options = dataset, options
        self.states: dict[int, Any] = {}
        self.done = 0
        self._rank, self._ranks = get_data_rank(), get_data_size()
        self._generators = find_generators(dataset)
        self._pass = self._read = 0
        self._began: list[Any] = []  # the states of its own generators at which this pass began

    def __iter__(self) -> Iterator[tuple[Any, int, Any]]:
        worker = get_worker_info()
        number, readers = (worker.id, worker.num_workers) if worker else (0, 1)
        if not divides_itself(self.dataset):  # all read all, from where the last batch ended
            state, batches = next(reversed(self.states.values()), None), self._read_shared(number, readers)
        else:  # torch asks worker 0 first
            blanks = [(None, 0, None)] * (number < self.done % readers)
            state, batches = self.states.get(number), itertools.chain(blanks, self._read_own())
        seed = self._rank * readers + number if divides_itself(self.dataset) else 0
        self._samples = self._read_samples(state or {}, seed)
        return batches if worker or not generators_of(self.dataset) else _apart(batches)

    def _read_own(self) -> Iterator[tuple[Any, int, Any]]:
        while mine := list(itertools.islice(self._samples, self.options.batch_size)):
            yield self._collate(mine), len(mine), self._state()

    def _read_shared(self, number: int, readers: int) -> Iterator[tuple[Any, int, Any]]:
        per_step = self.options.batch_size * self._ranks
        for step in itertools.count():
            mine, first = [], None
            for place, sample in enumerate(itertools.islice(self._samples, per_step)):
                first = first or sample
                if step % readers == number and place % self._ranks == self._rank:
                    mine.append(sample)
            if first is None:
                return
            if step % readers == number:
                yield self._collate(mine or [first]), len(mine), self._state()

    def _read_samples(self, state: dict[str, Any], reader: int) -> Iterator[tuple[int, Any]]:
        """Yield each sample with a seed for its transforms, from a state on."""
        options, dataset = self.options, self.dataset
        self._pass, self._read = state.get("pass", 0), state.get("read", 0)
        while True:
            base = derive_seed(options.seed, self._pass, 1)
            seed_generators(generators_of(dataset), derive_seed(options.seed, self._pass, 3, reader))
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(self._pass)
            samples = self._open(state)
            try:
                for sample in samples:
                    if self._read == options.max_samples:
                        return
                    self._read += 1
                    yield base ^ self._read, sample
            except Exception as error:
                text = f"{options.where}: sample {self._read} of the stream cannot be read"
                raise RunError(f"{text}: {type(error).__name__}: {one_line(error)}") from error
            if not options.training:
                return
            if not self._read:
                raise UserError(f"{options.where}: the stream {type(dataset).__name__} has no samples")
            state, self._pass, self._read = {}, self._pass + 1, 0

    def _open(self, state: dict[str, Any]) -> Iterator[Any]:
        """Return the samples of a pass from a state on: a data set's own, or by reading it again up to its place."""
        set_generators(self._generators, state.get("generators", []))
        self._began = [*map(state_of, self._generators)]
        if "dataset" not in state:
            return itertools.islice(iter(self.dataset), self._read, None)
        self.dataset.load_state_dict(state["dataset"])
        if "random" in state:
            put_states(state["random"])
        return iter(self.dataset)

    def _state(self) -> dict[str, Any]:
        state = {"pass": self._pass, "read": self._read, "generators": self._began}
        if not has_state(self.dataset):
            return state
        state |= {"dataset": copy.deepcopy(self.dataset.state_dict())}
        state |= {"generators": [*map(state_of, self._generators)]}
        return state | ({"random": take_states()} if generators_of(self.dataset) else {})

    def _collate(self, samples: list[tuple[int, Any]]) -> Any:
        transforms = self.options.transforms
        return self.options.collate_fn([self._transform(*one) if transforms else one[1] for one in samples])

    def _transform(self, seed: int, sample: Any) -> Any:
        transforms: Any = self.options.transforms
        drawn = generators_of(transforms)
        with random_state_kept() if drawn else nullcontext():
            seed_generators(drawn, seed)
            return transforms(sample)


def divides_itself(dataset: Any) -> bool:
    """Return whether a stream yields only what its rank and worker are to read."""
    return getattr(dataset, "divides_itself", False)


def _apart(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield what draws from the generators of the trainer's process, without an effect on them."""
    states = None
    while True:
        with random_state_kept():
            if states is not None:
                put_states(states)
            batch, states = next(batches, None), take_states()
        if batch is None:
            return
        yield batch


def _unchanged(batch: Any) -> Any:
    return batch
