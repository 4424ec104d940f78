"""The handwritten digits."""

import unittest

import torch

from common.config.errors import UserError
from custom.datasets.digits_dataset import SPLITS, DigitsDataset


class TestDigits(unittest.TestCase):
    """Three splits of 1,797 images."""

    def test_samples(self):
        sample = DigitsDataset("data", "val")[0]
        self.assertEqual((sample["image"].shape, sample["image"].dtype), ((1, 8, 8), torch.float32))
        self.assertEqual((sample["label"].shape, sample["label"].dtype), ((), torch.int64))

    def test_splits_are_all_of_it_and_share_nothing(self):
        sets = [DigitsDataset("data", split) for split in SPLITS]
        self.assertEqual([len(one) for one in sets], [1257, 270, 270])
        labels = torch.cat([one.tensors["label"] for one in sets])
        # The counts of the ten digits, as the data set's own description gives them.
        self.assertEqual(labels.bincount().tolist(), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
        images = torch.cat([one.tensors["image"] for one in sets]).flatten(1)
        self.assertEqual((images.min(), images.max()), (0, 1))
        self.assertEqual(len(images.unique(dim=0)), 1797)

    def test_a_batch_equals_its_samples(self):
        digits = DigitsDataset("data")
        batch = digits.__getitems__([3, 0])
        self.assertTrue(torch.equal(batch["image"], torch.stack([digits[3]["image"], digits[0]["image"]])))

    def test_unknown_split(self):
        with self.assertRaisesRegex(UserError, "split must be one of train, val, eval, found 'test'"):
            DigitsDataset("data", "test")

    def test_missing_file(self):
        with self.assertRaisesRegex(UserError, "nowhere/digits/digits.npz not found; --dir.data_dir"):
            DigitsDataset("nowhere")
