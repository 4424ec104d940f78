"""The multi-layer perceptron."""

import unittest

import torch
from torch import nn

from common.vision.mlp import MLP


class TestMLP(unittest.TestCase):
    """Layers and values."""

    def test_equals_plain_layers(self):
        model = MLP([8, 5, 3])
        first, second = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
        x = torch.randn(4, 2, 2, 2)
        torch.testing.assert_close(model(x), second(first(x.flatten(1)).relu()))

    def test_sizes(self):
        model = MLP([784, 512, 512, 10])
        self.assertEqual(sum(parameter.numel() for parameter in model.parameters()), 669_706)

    def test_the_last_layer_is_bare(self):
        for dropout in (0.0, 0.5):
            self.assertIsInstance(MLP([4, 3, 2], dropout).layers[-1], nn.Linear)

    def test_dropout(self):
        model = MLP([4, 1000, 1], dropout=0.5)
        dropped = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
        self.assertEqual([layer.p for layer in dropped], [0.5])
