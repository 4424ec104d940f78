"""Accuracy."""

import unittest

import torch

from common import UserError
from custom.metrics.accuracy_metric import Accuracy

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [5.0, 0.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 1])


class TestAccuracy(unittest.TestCase):
    """Share of labels among the largest logits."""

    def test_values(self):
        for top, expected in ((1, 0.5), (2, 0.75), (3, 1.0)):
            metric = Accuracy(top)
            metric.update({"logits": LOGITS}, {"label": LABELS})
            self.assertEqual(metric.compute(), expected)

    def test_more_guesses_than_classes(self):
        with self.assertRaisesRegex(UserError, "^metric: Accuracy.top: expected at most 3 classes, found 4$"):
            Accuracy(4).measure({"logits": LOGITS}, {"label": LABELS})
        with self.assertRaisesRegex(ValueError, "top must be at least 1, found 0"):
            Accuracy(0)
