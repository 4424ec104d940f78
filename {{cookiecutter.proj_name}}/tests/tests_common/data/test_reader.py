"""Samples with random numbers of their own, and samples that are broken."""

import random
import unittest
from unittest import mock

import numpy as np
import torch
from torch.utils.data import Dataset

from common.config.errors import RunError, UserError
from common.data import ArrayDataset, BaseDataset, make_loader
from common.run.launch import explain


class Noise(BaseDataset):
    """Each sample is a number from each of the three generators, and its index."""

    def __init__(self, samples=23):
        super().__init__("data")
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        return {"index": index, "noise": torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])}


class WholeNoise(ArrayDataset):
    """Whole batches, with noise."""

    def __init__(self):
        super().__init__("data", index=torch.arange(23))

    def __getitems__(self, indices):
        return super().__getitems__(indices) | {"noise": torch.rand(len(indices))}


class Broken(Noise):
    """Three samples cannot be read."""

    bad = (4, 5, 17)

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError("truncated\nfile")
        return super().__getitem__(index)

    def path(self, index):
        return f"images/{index}.png"


def read(dataset, epoch=0, start=0, **keys):
    """Return a pass over a data set in batches of 4: index → noise."""
    loader = make_loader(dataset, 4, training=True, seed=3, **keys)
    loader.batch_sampler.set_position(epoch, start)
    batches = list(loader)
    return {int(i): noise.tolist() for batch in batches for i, noise in zip(*batch.values(), strict=True)}


class TestRandomNumbers(unittest.TestCase):
    """They follow from (seed, epoch, index)."""

    def test_neither_workers_nor_the_start_matter(self):
        for dataset in (Noise(), WholeNoise()):
            expected = read(dataset)
            self.assertEqual(len(expected), 23)
            self.assertEqual(read(dataset, worker=2), expected)
            self.assertEqual(read(dataset, worker=2, persistent_workers=False), expected)
            rest = read(dataset, start=3)
            self.assertEqual(rest, {index: expected[index] for index in rest})

    def test_a_set_that_seldom_draws_from_python_or_numpy(self):
        class Seldom(Noise):
            def __getitem__(self, index):
                noise = random.random() if index == 3 else np.random.rand() if index == 19 else 0.0
                return {"index": index, "noise": torch.tensor([noise, torch.rand(()).item()])}

        every = read(Noise())
        for worker in (0, 2):
            found = read(Seldom(), worker=worker)
            expected = {index: [0.0, torch_noise] for index, (_, _, torch_noise) in every.items()}
            expected |= {3: every[3][::2], 19: every[19][1:]}
            self.assertEqual(found, expected)

    def test_what_a_set_declares_is_seeded_and_nothing_else(self):
        every = read(Noise())
        columns = {"python": 0, "numpy": 1, "torch": 2}
        for names in (("python",), ("numpy", "torch"), ("torch",)):
            data = Noise()
            data.random_generators = names
            for worker in (0, 2):
                one, other = read(data, worker=worker), read(data, worker=worker, persistent_workers=False)
                for index, noise in every.items():
                    for name, column in columns.items():
                        is_seeded = one[index][column] == noise[column] == other[index][column]
                        self.assertEqual(is_seeded, name in names)

    def test_a_set_that_declares_nothing_is_not_seeded(self):
        data = ArrayDataset("data", index=torch.arange(23), noise=torch.arange(23))
        with mock.patch.dict("common.data.dataset._SEEDERS", clear=True):
            self.assertEqual(read(data), {i: i for i in range(23)})

    def test_an_overridden_sample_is_read_and_seeded(self):
        class Noisy(ArrayDataset):
            """Like Noise, from an array."""

            def __getitem__(self, index):
                return super().__getitem__(index) | {"noise": Noise()[index]["noise"]}

        self.assertEqual(read(Noisy("data", index=torch.arange(23))), read(Noise()))

    def test_an_unknown_generator(self):
        cases = ((("nunpy",), "unknown 'nunpy', did you mean 'numpy'"), ("torch", "unknown 't', known: numpy, python"))
        for names, message in cases:
            data = Noise()
            data.random_generators = names
            with self.assertRaisesRegex(UserError, f"Noise.random_generators: {message}"):
                make_loader(data, 4)

    def test_a_single_sample_is_that_of_epoch_0(self):
        every = read(Noise())
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        loader = make_loader(Noise(), 4, seed=3)
        self.assertEqual(loader.dataset[7]["noise"].tolist(), every[7])
        self.assertEqual(torch.rand(1), expected)

    def test_a_set_is_read_once(self):
        class Counting(Noise):
            reads = 0

            def __getitem__(self, index):
                self.reads += 1
                return super().__getitem__(index)

        data = Counting()
        read(data)
        self.assertEqual(data.reads, 23)

    def test_persistent_workers_see_the_epoch(self):
        loader = make_loader(Noise(), 4, worker=1, training=True, seed=3)
        for epoch in (0, 1, 0):
            loader.batch_sampler.set_position(epoch)
            found = {int(i): n.tolist() for b in loader for i, n in zip(*b.values(), strict=True)}
            self.assertEqual(found, read(Noise(), epoch))

    def test_they_differ_by_sample_epoch_and_seed(self):
        noise = [tuple(values) for epoch in (0, 1) for values in read(Noise(), epoch).values()]
        self.assertEqual(len(set(noise)), 46)
        for column in zip(*noise, strict=True):
            self.assertEqual(len(set(column)), 46)

    def test_the_trainers_own_are_left_alone(self):
        draw = lambda: (random.random(), np.random.rand(), torch.rand(()).item())  # noqa: E731
        for worker in (0, 1):
            for seed in (random.seed, np.random.seed, torch.manual_seed):
                seed(1)
            expected = draw()
            for seed in (random.seed, np.random.seed, torch.manual_seed):
                seed(1)
            read(Noise(), worker=worker)
            self.assertEqual(draw(), expected)


class TestBrokenSamples(unittest.TestCase):
    """Raise with index and path, or replace and count."""

    def test_raise(self):
        text = r"dataset.train: sample (4|5|17) \(images/\1.png\) cannot be read: OSError: truncated file; --dataset"
        for worker in (0, 1):
            with self.subTest(worker=worker), self.assertRaises(RunError) as caught:
                read(Broken(), worker=worker, where="dataset.train")
            named = explain(caught.exception, "epoch 0", "batch_size")
            self.assertRegex(str(named), text)
            self.assertNotIn("\n", str(named))

    def test_replace(self):
        for worker in (0, 2):
            found = read(Broken(), worker=worker, replace=True)
            self.assertEqual(set(found), set(range(23)) - set(Broken.bad))
            expected = read(Noise())
            self.assertEqual(found, {index: expected[index] for index in found})

    def test_replace_in_whole_batches(self):
        class Whole(Broken):
            def __getitems__(self, indices):
                samples = [self[index] for index in indices]
                return {key: torch.stack([torch.as_tensor(s[key]) for s in samples]) for key in samples[0]}

        class WithoutDraws(Whole):
            random_generators = ()

        for dataset_class in (Whole, WithoutDraws):
            with self.subTest(dataset_class.__name__):
                self.assertEqual(set(read(dataset_class(), replace=True)), set(range(23)) - set(Broken.bad))
                with self.assertRaisesRegex(RunError, r"sample (4|5|17) \(images"):
                    read(dataset_class())

    def test_a_mistake_that_is_no_samples_fault(self):
        class Whole(Noise):
            def __getitems__(self, indices):
                raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            read(Whole(), replace=True)

    def test_limit(self):
        for worker in (0, 2):
            with self.assertRaisesRegex(RunError, "more than dataset.bad_sample_limit, 2"):
                read(Broken(), worker=worker, replace=True, limit=2)

    def test_a_batch_that_is_read_twice_counts_once(self):
        (batch,) = make_loader(Broken(), 23, replace=True, limit=4)  # 5 is also read in the place of 4
        self.assertEqual(batch["index"].tolist(), [{4: 6, 5: 6, 17: 18}.get(i, i) for i in range(23)])

    def test_nothing_can_be_read(self):
        class AllBroken(Broken):
            bad = range(23)

        with self.assertRaisesRegex(RunError, "no sample can be read"):
            read(AllBroken(), replace=True)

    def test_foreign_data_sets(self):
        class Plain(Dataset):
            def __len__(self):
                return 3

            def __getitem__(self, index):
                raise ValueError("no")

        with self.assertRaisesRegex(RunError, "data: sample 0 cannot be read: ValueError: no"):
            list(make_loader(Plain(), 2))
