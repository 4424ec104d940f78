"""Moving data, and precision."""

import unittest
from collections import namedtuple

import torch

from common.run.device import in_precision, move_to

Pair = namedtuple("Pair", ["left", "right"])


class TestMove(unittest.TestCase):
    """Nested data goes to a device; the meta device stands for any other."""

    def test_nested(self):
        data = {"a": [torch.ones(1), "text"], "b": Pair(torch.ones(2), 3), "c": (torch.ones(3), None)}
        moved = move_to(data, torch.device("meta"))
        self.assertEqual([moved["a"][0].device.type, moved["a"][1]], ["meta", "text"])
        self.assertIsInstance(moved["b"], Pair)
        self.assertEqual([moved["b"].left.device.type, moved["b"].right], ["meta", 3])
        self.assertIsInstance(moved["c"], tuple)
        self.assertEqual([moved["c"][0].shape, moved["c"][1]], [(3,), None])
        self.assertEqual(data["a"][0].device.type, "cpu")


class TestPrecision(unittest.TestCase):
    """The dtype in which a function computes."""

    def test_dtypes(self):
        layer, cpu = torch.nn.Linear(2, 2), torch.device("cpu")
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
            self.assertEqual(in_precision(layer, cpu, name)(torch.ones(1, 2)).dtype, dtype)

    def test_fp32_is_the_function_itself(self):
        self.assertIs(in_precision(len, torch.device("cpu"), "fp32"), len)
