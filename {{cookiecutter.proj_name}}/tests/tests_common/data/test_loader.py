"""The order of samples: by seed, epoch and position alone."""

import unittest
from unittest import mock

import torch
from torch import nn

from common.data import ArrayDataset, PositionedBatchSampler, make_loader


def batches(length, batch_size, world=1, epoch=0, start=0, **keys):
    """Return each rank's batches of indices."""
    return [make(length, batch_size, world, rank, epoch, start, **keys)[1] for rank in range(world)]


def make(length, batch_size, world, rank, epoch=0, start=0, **keys):
    """Return a rank's sampler, and its batches of indices."""
    with (
        mock.patch("common.data.dataset.get_data_rank", lambda: rank),
        mock.patch("common.data.dataset.get_data_size", lambda: world),
    ):
        sampler = PositionedBatchSampler(length, batch_size, **keys)
    sampler.set_position(epoch, start)
    return sampler, list(sampler)


class TestOrder(unittest.TestCase):
    """Training order."""

    def test_a_new_permutation_every_epoch(self):
        orders = [sum(batches(50, 7, shuffle=True, epoch=epoch)[0], []) for epoch in range(3)]
        for order in orders:
            self.assertEqual(sorted(order), list(range(50)))
        self.assertEqual(len({tuple(order) for order in orders}), 3)
        self.assertNotEqual(orders[0], sorted(orders[0]))

    def test_by_seed(self):
        one, same, other = (batches(50, 7, shuffle=True, seed=seed) for seed in (1, 1, 2))
        self.assertEqual(one, same)
        self.assertNotEqual(one, other)

    def test_seed_and_epoch_are_told_apart(self):
        self.assertNotEqual(
            batches(50, 7, shuffle=True, seed=0, epoch=1), batches(50, 7, shuffle=True, seed=1, epoch=0)
        )

    def test_samples_of_a_step_do_not_depend_on_the_number_of_ranks(self):
        whole = batches(53, 12, shuffle=True)[0]
        for world in (2, 3, 4):
            parts = batches(53, 12 // world, world, shuffle=True)
            for step, expected in enumerate(whole):
                self.assertEqual(sorted(sum((rank[step] for rank in parts), [])), sorted(expected))

    def test_from_any_batch_on(self):
        for start in range(9):
            whole = batches(50, 7, shuffle=True, epoch=3)[0]
            self.assertEqual(batches(50, 7, shuffle=True, epoch=3, start=start)[0], whole[start:])

    def test_the_next_pass_begins_at_its_start(self):
        sampler = PositionedBatchSampler(10, 3, shuffle=False)
        sampler.set_position(0, 2)
        self.assertEqual((len(list(sampler)), len(list(sampler))), (2, 4))


class TestShares(unittest.TestCase):
    """Ranks with more or fewer samples."""

    def test_each_sample_counts_once_and_ranks_have_as_many_batches(self):
        for length in range(34):
            for world in (1, 2, 3, 4):
                ranks, seen = [], []
                for rank in range(world):
                    sampler, rank_batches = make(length, 4, world, rank, shuffle=True)
                    ranks.append(len(rank_batches))
                    for i, batch in enumerate(rank_batches):
                        size = sampler.sizes_at(i)[0]
                        self.assertTrue(len(batch) == size or (size == 0 and len(batch) > 0))
                        seen += batch[:size]
                self.assertEqual(len(set(ranks)), 1)
                self.assertEqual(sorted(seen), list(range(length)))

    def test_sizes_are_known_in_advance(self):
        for drop_last in (False, True):
            for world in (1, 3):
                keys = {"shuffle": True, "drop_last": drop_last}
                samplers, every = zip(
                    *(make(23, 7 // world, world, rank, **keys) for rank in range(world)), strict=True
                )
                self.assertEqual(len(samplers[0]), len(every[0]))
                for i in range(2 * len(every[0])):
                    sizes = [len(one[i % len(one)]) for one in every]
                    for size, sampler in zip(sizes, samplers, strict=True):
                        self.assertEqual(sampler.sizes_at(i), (size, sum(sizes)))


class TestLoader(unittest.TestCase):
    """Batches of data."""

    def load(self, worker=0, training=True):
        data = ArrayDataset("data", x=torch.arange(20.0).view(10, 2), y=torch.arange(10))
        loader = make_loader(data, 4, worker=worker, training=training, seed=3)
        result = []
        for epoch in (0, 1):
            loader.batch_sampler.set_position(epoch, 1)
            result += [(batch["x"].tolist(), batch["y"].tolist()) for batch in loader]
        return result

    def test_workers_give_the_same_batches(self):
        self.assertEqual(self.load(worker=2), self.load())

    def test_in_order(self):
        self.assertEqual([y for _, y in self.load(training=False)], [[4, 5, 6, 7], [8, 9]] * 2)

    def test_single_samples_are_collated(self):
        class Single(torch.utils.data.Dataset):
            def __len__(self):
                return 3

            def __getitem__(self, index):
                return {"x": torch.tensor([index]), "name": str(index)}

        batch = next(iter(make_loader(Single(), 3)))
        self.assertEqual((batch["x"].tolist(), batch["name"]), ([[0], [1], [2]], ["0", "1", "2"]))

    def test_workers_copy_small_tensors_and_share_large_ones(self):
        tensors = {
            "small": torch.arange(6).reshape(2, 3).t(),  # not contiguous
            "large": torch.arange(70_000.0),
            "bf16": torch.ones(2, dtype=torch.bfloat16),
        }

        class Whole(torch.utils.data.Dataset):
            def __len__(self):
                return 3

            def __getitems__(self, indices):
                return tensors | {"nested": [tensors["small"], (torch.tensor(True), "text")]}

        for batch in make_loader(Whole(), 1, worker=1):
            for name, tensor in tensors.items():
                self.assertTrue(batch[name].equal(tensor))
            self.assertFalse(batch["small"].is_shared())
            self.assertTrue(batch["large"].is_shared() and batch["bf16"].is_shared())
            small, (flag, text) = batch["nested"]
            self.assertTrue(small.equal(tensors["small"]) and flag.item() and text == "text")
            small.add_(1)  # an array that may be written to
            self.assertFalse(flag.is_shared())

    def test_what_cannot_be_copied_is_handed_over_as_torch_does(self):
        tensors = {
            "sparse": torch.eye(3).to_sparse(),
            "parameter": nn.Parameter(torch.ones(1)),
            "leaf": torch.ones(1, requires_grad=True),
        }

        class Whole(torch.utils.data.Dataset):
            def __len__(self):
                return 1

            def __getitems__(self, indices):
                return tensors

        with torch.sparse.check_sparse_tensor_invariants(False):  # torch warns where nobody has chosen
            (batch,) = make_loader(Whole(), 1, worker=1)
        for name, tensor in tensors.items():
            self.assertIs(type(batch[name]), type(tensor))
            self.assertEqual((batch[name].layout, batch[name].requires_grad), (tensor.layout, tensor.requires_grad))
            self.assertTrue(batch[name].to_dense().equal(tensor.to_dense()))
        self.assertTrue(batch["parameter"].is_shared() and batch["leaf"].is_shared())

    def test_tensors_of_different_lengths(self):
        with self.assertRaisesRegex(ValueError, "same number of samples, found {'x': 2, 'y': 3}"):
            ArrayDataset("data", x=torch.ones(2), y=torch.ones(3))
