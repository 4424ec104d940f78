"""Intermediate tensors by name."""

import unittest

import torch

from common.log import activations


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
