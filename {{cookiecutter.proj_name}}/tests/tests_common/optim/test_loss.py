"""Named terms and their weighted sum."""

import unittest

import torch
from torch import nn

from common.config.errors import UserError
from common.optim.loss import LossSet


class Whole(nn.Module):
    """Takes the two dicts."""

    def forward(self, output_dict, data_dict):
        return (output_dict["y"] - data_dict["y"]).abs().sum()


class TestLossSet(unittest.TestCase):
    """Terms with whole dicts and with inputs by name."""

    def setUp(self):
        terms = {"l1": Whole(), "l2": nn.MSELoss()}
        self.losses = LossSet(terms, {"l1": 0.5, "l2": 2.0}, {"l2": ["y", "target"]})
        self.output = {"y": torch.tensor([1.0, 3.0], requires_grad=True)}
        self.data = {"y": torch.tensor([0.0, 1.0]), "target": torch.tensor([1.0, 1.0])}

    def test_terms_names_and_sum(self):
        result = self.losses(self.output, self.data)
        self.assertEqual(result["names"], ["l1", "l2"])
        self.assertEqual([result[name].item() for name in ("l1", "l2", "sum")], [1.5, 4.0, 5.5])

    def test_gradient(self):
        self.losses(self.output, self.data)["sum"].backward()
        torch.testing.assert_close(self.output["y"].grad, torch.tensor([0.5, 0.5 + 2 * 2.0]))

    def test_an_input_that_is_not_there(self):
        losses = LossSet({"l2": nn.MSELoss()}, {"l2": 1.0}, {"l2": ["y", "targets"]})
        with self.assertRaisesRegex(UserError, r"loss.l2.input_name: 'targets' .* did you mean 'target'"):
            losses(self.output, self.data)
