"""A model's weights, alone."""

import tempfile
import unittest
from pathlib import Path

import torch
from torch import nn

from common.config.errors import UserError
from common.state.weights import load_matching, read_weights


class TestWeights(unittest.TestCase):
    """Out of checkpoints and bare state dicts."""

    def read(self, state, **keys):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.pt"
            torch.save(state, path)
            return read_weights(path, **keys)

    def test_averages_come_first(self):
        state = {"model": {"w": torch.zeros(1), "n": torch.tensor(3)}, "ema": {"weights": {"w": torch.ones(1)}}}
        weights = self.read(state)
        self.assertEqual((weights["w"].item(), weights["n"].item()), (1.0, 3))

    def test_one_of_several(self):
        state = {"model.a": {"w": torch.zeros(1)}, "model.b": {"w": torch.ones(1)}}
        self.assertEqual(self.read(state, name="model.b")["w"].item(), 1.0)
        with self.assertRaisesRegex(UserError, "holds no 'model'"):
            self.read(state)

    def test_a_bare_state_dict(self):
        self.assertEqual(self.read({"w": torch.ones(1)})["w"].item(), 1.0)

    def test_tensors_that_are_no_weights(self):
        odd = {
            "meta": torch.empty(3, device="meta"),
            "sparse": torch.eye(3).to_sparse(),
            "text": "weights",
        }
        for name, value in odd.items():
            for state in ({"model": {"w": value}}, {"w": value}, {"model": [value]}, {"model": {}}):
                with self.subTest(name=name), self.assertRaisesRegex(UserError, "holds no 'model'"):
                    self.read(state)

    def test_matching(self):
        model = nn.Linear(2, 1)
        report = load_matching(model, {"weight": torch.ones(1, 2), "bias": torch.ones(3), "extra": torch.ones(1)}, "f")
        self.assertTrue(torch.equal(model.weight, torch.ones(1, 2)))
        self.assertEqual(report, ["bias: (3,) in the file, (1,) in the model", "extra: not in the model"])

    def test_nothing_matches(self):
        with self.assertRaisesRegex(UserError, "none of its 1 weights fits the model Linear"):
            load_matching(nn.Linear(2, 1), {"other": torch.ones(1)}, "f")
