"""Intermediate tensors by name."""

import unittest

import torch

from common import endpoints


class TestEndpoints(unittest.TestCase):
    """Registering and reading."""

    def setUp(self):
        self.addCleanup(endpoints.clear)

    def test_scopes_nest_and_end(self):
        with endpoints.scope("encoder"), endpoints.scope("block1"):
            endpoints.register("x", torch.ones(2))
        endpoints.register("x", torch.zeros(2))
        self.assertEqual(endpoints.names(), ["encoder/block1/x", "x"])
        self.assertEqual(endpoints.get("encoder/block1/x").sum(), 2)

    def test_a_scope_ends_with_an_exception(self):
        with self.assertRaises(ZeroDivisionError), endpoints.scope("encoder"):
            raise ZeroDivisionError
        endpoints.register("x", torch.ones(1))
        self.assertEqual(endpoints.names(), ["x"])

    def test_gradient(self):
        x = torch.ones(3, requires_grad=True)
        y = endpoints.register("y", 2 * x, retain_grad=True)
        (y**2).sum().backward()
        torch.testing.assert_close(endpoints.get("y").grad, torch.full((3,), 4.0))

    def test_without_gradients_nothing_is_retained(self):
        with torch.no_grad():
            endpoints.register("y", torch.ones(1), retain_grad=True)
        self.assertIsNone(endpoints.get("y").grad)

    def test_clear(self):
        endpoints.register("x", torch.ones(1))
        endpoints.clear()
        self.assertEqual(endpoints.names(), [])

    def test_a_missing_name(self):
        endpoints.register("features", torch.ones(1))
        with self.assertRaisesRegex(KeyError, "did you mean 'features'"):
            endpoints.get("feature")
