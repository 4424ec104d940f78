"""What data sets are made of: splits, labels, pictures."""

import tempfile
import unittest
from pathlib import Path

import torch
from PIL import Image

from common.config.errors import UserError
from common.data import check_labels, read_image, split_groups


class TestSplits(unittest.TestCase):
    def test_groups_stay_together_and_sets_apart(self):
        groups = [f"car {i // 16}" for i in range(16 * 30)]
        for seed in range(5):
            sets = split_groups(groups, (0.7, 0.1, 0.2), seed)
            self.assertEqual([len(rows) for rows in sets], [21 * 16, 3 * 16, 6 * 16])
            self.assertEqual(sorted(row for rows in sets for row in rows), list(range(480)))
            cars = [{groups[row] for row in rows} for rows in sets]
            self.assertFalse(cars[0] & cars[1] or cars[0] & cars[2] or cars[1] & cars[2])

    def test_the_seed_alone_decides(self):
        names = [f"{i:03d}" for i in range(50)]
        self.assertEqual(split_groups(names, (0.5, 0.5), 1), split_groups(names, (0.5, 0.5), 1))
        self.assertNotEqual(split_groups(names, (0.5, 0.5), 1), split_groups(names, (0.5, 0.5), 2))

    def test_shares(self):
        self.assertEqual([len(rows) for rows in split_groups(list("abcdefghij"), (0.2, 0.3), 0)], [2, 3])
        for shares in ((0.8, 0.3), (-0.1, 0.5)):
            with self.assertRaisesRegex(ValueError, "must not be negative, nor above 1 together"):
                split_groups(["a"], shares, 0)


class TestLabels(unittest.TestCase):
    def test_out_of_range(self):
        check_labels(torch.tensor([0, 4, 2]), 5, "file")
        for labels, message in (
            ([0, 5], "file: sample 1 has label 5, expected 0 to 4"),
            ([-1], "sample 0 has label -1"),
        ):
            with self.assertRaisesRegex(UserError, message):
                check_labels(torch.tensor(labels), 5, "file")


class TestPictures(unittest.TestCase):
    def test_formats(self):
        with tempfile.TemporaryDirectory() as folder:
            image = Image.new("RGB", (5, 3), (255, 0, 10))
            for name in ("a.png", "b.gif", "c.bmp"):
                image.save(Path(folder, name))
                pixels = read_image(Path(folder, name))
                self.assertEqual((pixels.shape, pixels.dtype), ((3, 3, 5), torch.uint8))
                self.assertEqual(pixels[:, 1, 2].tolist(), [255, 0, 10])
                self.assertEqual(read_image(Path(folder, name), "L").shape, (1, 3, 5))
            Path(folder, "bad.png").write_bytes(b"no picture")
            with self.assertRaises(OSError):
                read_image(Path(folder, "bad.png"))
