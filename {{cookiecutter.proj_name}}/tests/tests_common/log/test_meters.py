"""Averages that stay on the device until they are read."""

import unittest
from unittest import mock

import numpy as np
import torch

from common.log.metric import Meters


class TestMeters(unittest.TestCase):
    """Means weighted by samples, over two windows."""

    def test_weighted_mean(self):
        generator = np.random.default_rng(0)
        values, sizes = generator.normal(size=20), generator.integers(1, 9, size=20)
        meters = Meters()
        for value, size in zip(values, sizes, strict=True):
            meters.update({"tensor": torch.tensor(value), "number": float(value)}, int(size))
        expected = np.average(values, weights=sizes)
        summary = meters.summary()
        self.assertAlmostEqual(summary["tensor"], expected, places=12)
        self.assertAlmostEqual(summary["number"], expected, places=12)

    def test_two_windows(self):
        meters = Meters()
        meters.update({"loss": 1.0})
        self.assertEqual(meters.flush(), {"loss": 1.0})
        meters.update({"loss": 3.0})
        self.assertEqual((meters.flush(), meters.summary()), ({"loss": 3.0}, {"loss": 2.0}))
        self.assertEqual(meters.flush(), {})
        meters.reset()
        self.assertEqual(meters.summary(), {})

    def test_a_name_that_comes_and_goes(self):
        meters = Meters()
        meters.update({"loss": 1.0})
        meters.update({"loss": 2.0, "extra": 5.0})
        self.assertEqual(meters.summary(), {"loss": 1.5, "extra": 5.0})

    def test_what_is_no_scalar_is_passed_over(self):
        meters = Meters()
        meters.update({"names": ["a"], "loss": {"generator": torch.ones(1)}, "text": "x", "ok": torch.ones(1, 1)})
        self.assertEqual(meters.summary(), {"ok": 1.0})

    def test_keeps_no_graph(self):
        weight = torch.ones(1, requires_grad=True)
        meters = Meters()
        meters.update({"loss": (weight * 2).sum()})
        self.assertFalse(meters._pending["loss"][0][0].requires_grad)

    def test_update_does_not_synchronize(self):
        meters, refused = Meters(), mock.Mock(side_effect=AssertionError("synchronizes"))
        loss = torch.ones(())
        with mock.patch.multiple(torch.Tensor, item=refused, tolist=refused, cpu=refused, __float__=refused):
            meters.update({"loss": loss}, 4)
        self.assertEqual(meters.summary(), {"loss": 1.0})

    def test_state(self):
        meters, other = Meters(), Meters()
        meters.update({"loss": torch.tensor(1.0)}, 3)
        meters.flush()
        meters.update({"loss": torch.tensor(5.0)}, 1)
        other.load_state_dict(meters.state_dict())
        other.update({"loss": 9.0}, 1)
        self.assertEqual((other.flush(), other.summary()), ({"loss": 7.0}, {"loss": 17 / 5}))
