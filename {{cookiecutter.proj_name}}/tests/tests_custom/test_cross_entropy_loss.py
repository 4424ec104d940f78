"""Cross-entropy."""

import math
import unittest

import torch

from custom.losses.cross_entropy_loss import CrossEntropy

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [5.0, 0.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1, 1])


class TestCrossEntropy(unittest.TestCase):
    """Against the definition."""

    def expected(self, smoothing):
        rows = []
        for logits, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
            log_sum = math.log(sum(map(math.exp, logits)))
            target = [(1 - smoothing) * (i == label) + smoothing / 3 for i in range(3)]
            rows.append(sum(t * (log_sum - value) for t, value in zip(target, logits, strict=True)))
        return sum(rows) / len(rows)

    def test_values(self):
        for smoothing in (0.0, 0.3):
            loss = CrossEntropy(smoothing)({"logits": LOGITS}, {"label": LABELS})
            self.assertAlmostEqual(loss.item(), self.expected(smoothing), places=12)

    def test_a_share_beyond_all(self):
        for smoothing in (-0.1, 1.1):
            with self.assertRaisesRegex(ValueError, f"label_smoothing must be from 0 to 1, found {smoothing}"):
                CrossEntropy(smoothing)
