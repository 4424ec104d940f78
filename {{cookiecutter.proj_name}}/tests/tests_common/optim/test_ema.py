"""The moving average of the weights."""

import unittest

import torch
from torch import nn

from common.optim.ema import EMA


class TestEMA(unittest.TestCase):
    """Against a loop by hand."""

    def setUp(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def move(self):
        """Change weights, and the running statistics with them."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.randn_like(parameter))
        self.model(torch.randn(8, 3))

    def values(self):
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def test_average_of_weights_and_running_statistics(self):
        ema, expected = EMA(self.model, 0.7), self.values()
        for n in range(1, 9):
            self.move()
            ema.update()
            decay = min(0.7, (1 + n) / (10 + n))
            for name, value in self.values().items():
                expected[name] = decay * expected[name] + (1 - decay) * value
        state = ema.state_dict()
        self.assertEqual(state["updates"], 8)
        self.assertNotIn("1.num_batches_tracked", state["weights"])
        self.assertEqual(len(state["weights"]), 6)
        for name, average in state["weights"].items():
            torch.testing.assert_close(average, expected[name])

    def test_swapped_in_and_back_again(self):
        ema = EMA(self.model, 0.9)
        self.move()
        before = self.values()
        with self.assertRaises(ZeroDivisionError), ema.swapped_in():
            for name, average in ema.state_dict()["weights"].items():
                self.assertTrue(torch.equal(self.model.state_dict()[name], average), name)
            raise ZeroDivisionError
        for name, value in self.values().items():
            self.assertTrue(torch.equal(value, before[name]), name)

    def test_state(self):
        ema = EMA(self.model, 0.9)
        self.move()
        ema.update()
        other = EMA(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 0.9)
        other.load_state_dict(ema.state_dict())
        self.assertEqual(other.updates, 1)
        for name, average in ema.state_dict()["weights"].items():
            self.assertTrue(torch.equal(other.state_dict()["weights"][name], average), name)
