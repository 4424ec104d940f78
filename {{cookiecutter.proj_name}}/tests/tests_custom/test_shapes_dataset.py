"""The drawn shapes."""

import unittest

import torch

from common.config.errors import UserError
from custom.datasets.shapes_dataset import SPLITS, ShapesDataset


class TestShapes(unittest.TestCase):
    def test_samples(self):
        for split, (_, count) in SPLITS.items():
            dataset = ShapesDataset("data", split, size=32)
            batch = dataset.__getitems__(list(range(len(dataset))))
            self.assertEqual((batch["image"].shape, batch["image"].dtype), ((count, 3, 32, 32), torch.uint8))
            self.assertEqual((batch["mask"].shape, batch["mask"].dtype), ((count, 1, 32, 32), torch.float32))
            self.assertEqual(batch["mask"].unique().tolist(), [0, 1])
            shares = batch["mask"].mean((1, 2, 3))
            self.assertTrue(shares.min() > 0 and shares.max() < 0.9 and 0.1 < shares.mean() < 0.5)

    def test_shapes_are_colored_and_the_ground_is_gray(self):
        dataset = ShapesDataset("data", "val", size=48)
        image, mask = dataset.tensors["image"].float(), dataset.tensors["mask"][:, 0] == 1
        spread = image.amax(1) - image.amin(1)
        self.assertGreater(spread[mask].median(), 2 * spread[~mask].median())

    def test_always_the_same_and_no_picture_twice(self):
        sets = [ShapesDataset("data", split, size=16).tensors["image"] for split in ("train", "val", "eval", "val")]
        self.assertTrue(sets[1].equal(sets[3]))
        pictures = torch.cat(sets[:3]).flatten(1)
        self.assertEqual(len(pictures.unique(dim=0)), len(pictures))

    def test_another_split(self):
        with self.assertRaisesRegex(UserError, "split must be one of train, val, eval, found 'test'"):
            ShapesDataset("data", "test")
