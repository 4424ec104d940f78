"""Intermediate tensors by name."""

import unittest

import torch
from torch import nn

from common.diagnose import activations
from tests.tests_common.engine import toy


class TestEndpoints(unittest.TestCase):
    """Registering and reading."""

    def setUp(self):
        self.addCleanup(activations.clear)

    def test_scopes_nest_and_end(self):
        with activations.scope("encoder"), activations.scope("block1"):
            activations.register("x", torch.ones(2))
        activations.register("x", torch.zeros(2))
        self.assertEqual(activations.names(), ["encoder/block1/x", "x"])
        self.assertEqual(activations.get("encoder/block1/x").sum(), 2)

    def test_a_scope_ends_with_an_exception(self):
        with self.assertRaises(ZeroDivisionError), activations.scope("encoder"):
            raise ZeroDivisionError
        activations.register("x", torch.ones(1))
        self.assertEqual(activations.names(), ["x"])

    def test_gradient(self):
        x = torch.ones(3, requires_grad=True)
        y = activations.register("y", 2 * x, retain_grad=True)
        (y**2).sum().backward()
        torch.testing.assert_close(activations.get("y").grad, torch.full((3,), 4.0))

    def test_without_gradients_nothing_is_retained(self):
        with torch.no_grad():
            activations.register("y", torch.ones(1), retain_grad=True)
        self.assertIsNone(activations.get("y").grad)

    def test_clear(self):
        activations.register("x", torch.ones(1))
        activations.clear()
        self.assertEqual(activations.names(), [])

    def test_a_missing_name(self):
        activations.register("features", torch.ones(1))
        with self.assertRaisesRegex(KeyError, "did you mean 'features'"):
            activations.get("feature")


class TestInTraining(unittest.TestCase):
    """Tensors from inside the model, for one iteration."""

    def test_a_hook_reads_tensor_and_gradient(self):
        norms = []

        class Layer(nn.Linear):
            def forward(self, x):
                with activations.scope("head"):
                    return activations.register("y", super().forward(x), retain_grad=True)

        class Watched(toy.ToyEpochTrainer):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.model[2] = Layer(3, 1)

            def before_train_step(self, epoch, iteration, data_dict):
                norms.append(activations.names())

            def after_backward(self, epoch, iteration, data_dict, output_dict, result_dict):
                expected = 2 * (output_dict["y"] - data_dict["y"]) / len(data_dict["y"])
                torch.testing.assert_close(activations.get("head/y").grad, expected)

        Watched(toy.make_config(), toy.make_session(self)).run()
        self.assertEqual(norms, [[]] * 2)
        self.assertEqual(activations.names(), [])
