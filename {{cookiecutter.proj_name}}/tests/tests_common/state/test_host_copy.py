"""Copies of a state that training does not change."""

import unittest

import torch

from common.state.host_copy import HostCopy


class TestHostCopy(unittest.TestCase):
    """Equal, apart, and in memory that is used again."""

    def make(self):
        weight = torch.randn(4, 3)
        return {
            "a": {"w": weight, "tied": weight, "row": weight[1], "empty": torch.empty(0)},
            "list": [1, (torch.ones(2), 2.5), 3],
            "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        }

    def test_equal_and_apart(self):
        state = self.make()
        copy = HostCopy().take(state)
        torch.testing.assert_close(copy, state, rtol=0, atol=0)
        self.assertEqual(copy["last"].stride(), state["last"].stride())
        before = copy["a"]["w"].clone()
        state["a"]["w"].zero_()
        self.assertTrue(torch.equal(copy["a"]["w"], before))

    def test_one_tensor_stays_one(self):
        copy = HostCopy().take(self.make())
        self.assertIs(copy["a"]["w"], copy["a"]["tied"])
        self.assertIsNot(copy["a"]["w"], copy["a"]["row"])

    def test_memory_is_used_again(self):
        copier, state = HostCopy(), self.make()
        first = copier.take(state)["a"]["w"].data_ptr()
        self.assertEqual(copier.take(state)["a"]["w"].data_ptr(), first)
        state["a"]["w"] = torch.randn(7, 3)  # another shape needs other memory
        torch.testing.assert_close(copier.take(state)["a"], state["a"], rtol=0, atol=0)

    def test_parameters(self):
        parameter = torch.nn.Parameter(torch.ones(2))
        self.assertFalse(HostCopy().take({"p": parameter})["p"].requires_grad)
