"""What the tester records of each sample."""

import unittest
from types import SimpleNamespace

import torch

from custom.testers.image_tester import ImageTester


class TestRecord(unittest.TestCase):
    def record(self, data_dict, output_dict, classes=None):
        tester = SimpleNamespace(rows=[{"sample": 0}, {"sample": 1}], page=None, classes=classes)
        ImageTester.after_test_step(tester, 0, data_dict, output_dict, {})
        return tester.rows[-1]

    def test_a_label(self):
        for logits, guess in (([0.0, 0, 3], 2), ([3.0, 0, 0], 0)):
            row = self.record({"label": torch.tensor(2)}, {"logits": torch.tensor(logits)})
            self.assertEqual((row["sample"], row["label"], row["guess"]), (1, 2, guess))
            self.assertAlmostEqual(row["confidence"], 0.9094, places=4)

    def test_a_label_with_a_name(self):
        row = self.record({"label": torch.tensor(1)}, {"logits": torch.tensor([3.0, 0.0])}, ["cat", "dog"])
        self.assertEqual((row["label"], row["guess"]), ("dog", "cat"))

    def test_no_label(self):
        row = self.record({}, {"logits": torch.tensor([0.0, 0, 3])})
        self.assertEqual((set(row), row["guess"]), ({"sample", "guess", "confidence"}, 2))

    def test_a_mask(self):
        row = self.record({"label": torch.tensor(2), "mask": torch.ones(1, 4, 4)}, {"logits": torch.zeros(1, 4, 4)})
        self.assertEqual(row, {"sample": 1})
