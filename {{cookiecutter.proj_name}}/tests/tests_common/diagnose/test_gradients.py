"""Gradients by parameter, and the batch that failed."""

import tempfile
import unittest
from pathlib import Path

import torch
from torch import nn

from common.diagnose.gradients import check_gradients, dump_batch, gradient_table


class TestGradients(unittest.TestCase):
    """Tables and checks."""

    def test_table(self):
        weight = nn.Parameter(torch.zeros(4))
        weight.grad = torch.tensor([1.0, -3.0, 0.0, 2.0])
        frozen = nn.Parameter(torch.zeros(1))
        lines = gradient_table([("weight", weight), ("frozen", frozen)]).splitlines()
        self.assertEqual([float(number) for number in lines[1].split()[1:]], [0.0, 1.871, 3.742, 3.0])
        self.assertEqual(lines[2].split(), ["frozen", "none"])

    def test_check(self):
        good, bad = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
        good.grad, bad.grad = torch.ones(2), torch.tensor([0.0, torch.nan])
        check_gradients([("good", good), ("none", nn.Parameter(torch.zeros(1)))])
        with self.assertRaisesRegex(FloatingPointError, "not finite in bad$"):
            check_gradients([("good", good), ("bad", bad)])


class TestDump(unittest.TestCase):
    """The file of a failed iteration."""

    def test_opens_again(self):
        with tempfile.TemporaryDirectory() as folder:
            path = dump_batch(Path(folder), 3, 7, {"x": torch.ones(2)}, {"main": {"w": torch.zeros(1)}})
            dump = torch.load(path, weights_only=True)
        self.assertEqual((dump["epoch"], dump["iteration"]), (3, 7))
        self.assertTrue(torch.equal(dump["data_dict"]["x"], torch.ones(2)))
