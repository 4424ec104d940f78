"""Threads that read."""

import threading
import unittest

import torch

from common.config.errors import UserError
from common.data import ArrayDataset, BaseDataset, make_loader
from common.data.batches import open_pass
from tests.tests_common.engine import rich, toy


class Quiet(BaseDataset):
    """Draws nothing; notes who reads it."""

    random_generators = ()
    readers = None

    def __init__(self):
        super().__init__("data")
        self.readers = set()

    def __len__(self):
        return 50

    def __getitem__(self, index):
        self.readers.add(threading.current_thread().name)
        if index == 48:
            raise OSError("gone")
        return {"x": torch.tensor(float(index))}


class TestThreads(unittest.TestCase):
    def test_batches_are_those_of_processes(self):
        data = toy.make_data(50).tensors
        loaders = [
            make_loader(ArrayDataset("data", **data), 8, worker, True, 3, loader=loader)
            for worker, loader in ((0, "process"), (2, "thread"))
        ]
        for epoch, start in ((0, 0), (1, 3)):
            one, other = (list(open_pass(loader, epoch, start)) for loader in loaders)
            self.assertEqual(len(one), 7 - start)
            for expected, found in zip(one, other, strict=True):
                self.assertTrue(torch.equal(expected["x"], found["x"]))

    def test_read_by_threads_that_end(self):
        dataset, before = Quiet(), threading.active_count()
        batches = iter(make_loader(dataset, 4, 2, loader="thread"))
        self.assertEqual(next(batches)["x"].tolist(), [0, 1, 2, 3])
        batches.close()
        for thread in threading.enumerate():
            if thread.name.startswith("loader"):
                thread.join(10)
        self.assertEqual(threading.active_count(), before)
        self.assertTrue(all(name.startswith("loader") for name in dataset.readers))

    def test_a_sample_that_fails(self):
        with self.assertRaisesRegex(Exception, "data: sample 48 cannot be read: OSError: gone"):
            list(make_loader(Quiet(), 4, 2, loader="thread"))

    def test_one_that_draws(self):
        with self.assertRaisesRegex(UserError, "loader: thread: Augmented draws from the generators python, numpy"):
            make_loader(rich.Augmented(), 4, 2, loader="thread")
