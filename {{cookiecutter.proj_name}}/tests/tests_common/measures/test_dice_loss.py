"""The Dice loss."""

import unittest

import torch

from common.measures.dice_loss import DiceLoss


def reference(logits, target, smooth=1.0):
    """Return the loss by its definition, pixel by pixel, in float64."""
    total, count = 0.0, 0
    p = torch.sigmoid(logits.double()) if logits.shape[1] == 1 else torch.softmax(logits.double(), 1)
    for image in range(len(logits)):
        for channel in range(logits.shape[1]):
            chosen = p[image, channel].flatten().tolist()
            truth = target[image].flatten().tolist()
            truth = truth if logits.shape[1] == 1 else [float(value == channel) for value in truth]
            overlap = sum(a * b for a, b in zip(chosen, truth, strict=True))
            total += 1 - (2 * overlap + smooth) / (sum(chosen) + sum(truth) + smooth)
            count += 1
    return total / count


class TestDiceLoss(unittest.TestCase):
    def cases(self):
        torch.manual_seed(0)
        logits = torch.randn(3, 1, 5, 4) * 3
        for name, target in (
            ("random", torch.rand(3, 1, 5, 4).round()),
            ("empty", torch.zeros(3, 1, 5, 4)),
            ("full", torch.ones(3, 1, 5, 4)),
            ("without a channel", torch.rand(3, 5, 4).round()),
            ("soft", torch.rand(3, 1, 5, 4)),
        ):
            yield name, logits, target
        yield "one sample", logits[:1], torch.ones(1, 1, 5, 4)
        many = torch.randn(3, 4, 5, 4)
        yield "classes", many, torch.randint(4, (3, 5, 4))
        yield "one class", many, torch.full((3, 5, 4), 2)

    def test_against_the_definition(self):
        for name, logits, target in self.cases():
            found = DiceLoss()(logits.double(), target).item()
            self.assertAlmostEqual(found, reference(logits, target), places=12, msg=name)

    def test_gradient(self):
        for _, logits, target in self.cases():
            logits = logits[:, :, :2, :2].double().requires_grad_()
            target = target[..., :2, :2] if target.is_floating_point() else target[:, :2, :2]
            torch.autograd.gradcheck(lambda x, truth=target: DiceLoss()(x, truth), logits)

    def test_extremes(self):
        truth = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
        self.assertAlmostEqual(DiceLoss()(100 * (2 * truth - 1), truth).item(), 0.0, places=6)
        self.assertAlmostEqual(DiceLoss()(torch.full_like(truth, -100), torch.zeros_like(truth)).item(), 0.0, places=6)
