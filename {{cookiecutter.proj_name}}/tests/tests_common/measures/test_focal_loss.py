"""The focal loss."""

import unittest

import torch
from torch.nn import functional

from common.measures.focal_loss import FocalLoss


def reference(logits, target, gamma, alpha=None):
    """Return the loss of the paper's formula, in float64."""
    if logits.shape[1] == 1:
        p, truth = torch.sigmoid(logits.double()), target.reshape(logits.shape)
        p_t = torch.where(truth == 1, p, 1 - p)
        weight = 1.0 if alpha is None else torch.where(truth == 1, alpha, 1 - alpha)
    else:
        p_t, weight = torch.softmax(logits.double(), 1).gather(1, target.unsqueeze(1)), 1.0
    return (-weight * (1 - p_t) ** gamma * p_t.log()).mean().item()


class TestFocalLoss(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.binary = torch.randn(4, 1, 3, 2).double(), torch.rand(4, 1, 3, 2).round()
        self.classes = torch.randn(4, 5).double(), torch.randint(5, (4,))

    def test_against_the_formula(self):
        for gamma in (0.5, 2.0, 5.0):
            for alpha in (None, 0.25):
                self.assertAlmostEqual(
                    FocalLoss(gamma, alpha)(*self.binary).item(), reference(*self.binary, gamma, alpha), places=10
                )
            self.assertAlmostEqual(FocalLoss(gamma)(*self.classes).item(), reference(*self.classes, gamma), places=10)

    def test_degenerate(self):
        logits = self.binary[0]
        for target in (torch.zeros(4, 1, 3, 2), torch.ones(4, 3, 2)):
            self.assertAlmostEqual(FocalLoss()(logits, target).item(), reference(logits, target, 2.0), places=10)
        self.assertEqual(FocalLoss()(torch.full((1, 1), 200.0), torch.ones(1, 1)).item(), 0.0)

    def test_without_focus_it_is_cross_entropy(self):
        logits, labels = self.classes
        self.assertAlmostEqual(
            FocalLoss(0.0)(logits, labels).item(), functional.cross_entropy(logits, labels).item(), places=12
        )

    def test_gradient(self):
        for gamma in (1.0, 2.0):
            loss = FocalLoss(gamma)
            for logits, target in (self.binary, self.classes):
                logits = logits.clone().requires_grad_()
                torch.autograd.gradcheck(lambda x, loss=loss, truth=target: loss(x, truth), logits)
