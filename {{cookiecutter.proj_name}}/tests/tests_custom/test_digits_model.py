"""The small convolutional network."""

import unittest

import torch

from custom.models.digits_model import DigitsModel


class TestDigitsModel(unittest.TestCase):
    """Shapes, sizes and gradients."""

    def test_shape(self):
        self.assertEqual(DigitsModel(num_classes=7)(torch.zeros(5, 1, 8, 8)).shape, (5, 7))

    def test_parameters(self):
        count = sum(parameter.numel() for parameter in DigitsModel(width=16).parameters())
        self.assertEqual(count, (9 * 16 + 16) + (9 * 16 * 32 + 32) + (512 * 10 + 10))

    def test_gradient_reaches_every_parameter(self):
        model = DigitsModel()
        model(torch.rand(4, 1, 8, 8)).square().sum().backward()
        self.assertTrue(all(parameter.grad.abs().sum() > 0 for parameter in model.parameters()))

    def test_bad_width(self):
        with self.assertRaisesRegex(ValueError, "at least 1, found 0"):
            DigitsModel(width=0)
