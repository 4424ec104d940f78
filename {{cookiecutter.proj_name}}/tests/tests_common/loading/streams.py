"""Streams for tests, all with the same samples."""

import random

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from tests.tests_common.engine import toy

SAMPLES = 40


class Stream(IterableDataset):
    """Yields its samples in order."""

    def __init__(self, samples=SAMPLES):
        self.tensors = toy.make_data(samples).tensors

    def __len__(self):
        return len(self.tensors["x"])

    def sample(self, index):
        return {**{name: tensor[index] for name, tensor in self.tensors.items()}, "index": index}

    def __iter__(self):
        yield from map(self.sample, range(len(self)))


class Endless(Stream):
    """Never ends, and knows no length."""

    __len__ = None

    def __iter__(self):
        i = 0
        while True:
            yield self.sample(i % SAMPLES)
            i += 1


class Shuffled(Stream):
    """Draws from all three generators, in an order of its own for each pass."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        buffer, order = [], np.random.default_rng(self.epoch).permutation(SAMPLES)
        for index in order.tolist():
            sample = self.sample(index)
            noise = 0.1 * torch.randn(4) + 0.1 * random.random() + 0.1 * float(np.random.rand())
            buffer.append({**sample, "x": sample["x"] + noise})
            if len(buffer) > 3:
                yield buffer.pop(random.randrange(4))
        yield from buffer


class Stateful(Stream):
    """Knows its place, and draws from a generator of its own and from the process's."""

    def __init__(self, samples=SAMPLES):
        super().__init__(samples)
        self.place, self.own = 0, np.random.default_rng(1)

    def __iter__(self):
        while self.place < len(self):
            sample = self.sample(self.place)
            self.place += 1
            yield {**sample, "x": sample["x"] + 0.1 * float(self.own.random()) + 0.1 * torch.randn(4)}
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class EndlessStateful(Stateful):
    """Never ends."""

    __len__ = None

    def __iter__(self):
        while True:
            sample = self.sample(self.place % SAMPLES)
            self.place += 1
            yield sample


class Dividing(Stream):
    """Yields what this worker is to read, with or without a state."""

    divides_itself = True

    def part(self):
        worker = get_worker_info()
        number, readers = (worker.id, worker.num_workers) if worker else (0, 1)
        return range(number, SAMPLES, readers)

    def __iter__(self):
        yield from map(self.sample, self.part())


class DividingStateful(Dividing):
    """Knows its place in its part."""

    place = 0

    def __iter__(self):
        part = self.part()
        while self.place < len(part):
            self.place += 1
            yield self.sample(part[self.place - 1])
        self.place = 0

    state_dict, load_state_dict = Stateful.state_dict, Stateful.load_state_dict


class Quiet(Stream):
    """Draws nothing, and says so."""

    random_generators = ()


class QuietStateful(DividingStateful):
    """The same with a state."""

    random_generators, divides_itself = (), False

    def part(self):
        return range(SAMPLES)


class Broken(Stream):
    """Fails at a sample."""

    def __iter__(self):
        yield from map(self.sample, range(11))
        raise OSError("the disk is gone")
