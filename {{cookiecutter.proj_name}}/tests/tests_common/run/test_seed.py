"""Seeds, and the state of the random number generators."""

import io
import random
import unittest

import numpy as np
import torch

from common.run.seed import RandomState, seed_everything


def draw():
    """Return a number from each generator."""
    return random.random(), np.random.normal(), torch.rand(1).item()


class TestSeed(unittest.TestCase):
    """Same seed, same numbers."""

    def test_all_generators(self):
        seed_everything(5)
        first = draw()
        seed_everything(5)
        self.assertEqual(draw(), first)
        seed_everything(6)
        self.assertTrue(all(a != b for a, b in zip(draw(), first, strict=True)))

    def test_deterministic(self):
        self.addCleanup(torch.use_deterministic_algorithms, False)
        seed_everything(0, deterministic=True)
        self.assertTrue(torch.are_deterministic_algorithms_enabled())


class TestRandomState(unittest.TestCase):
    """The streams go on where a checkpoint took their state."""

    def test_through_a_file_of_plain_data(self):
        seed_everything(1)
        np.random.normal()  # leaves a second number cached, which belongs to the state
        file = io.BytesIO()
        torch.save(RandomState().state_dict(), file)
        expected = [draw() for _ in range(3)]
        seed_everything(2)
        file.seek(0)
        RandomState().load_state_dict(torch.load(file, weights_only=True))
        self.assertEqual([draw() for _ in range(3)], expected)

    def test_a_new_rank_keeps_its_own(self):
        seed_everything(1)
        state = {7: RandomState().state_dict()[0]}
        seed_everything(2)
        expected = draw()
        seed_everything(2)
        RandomState().load_state_dict(state)
        self.assertEqual(draw(), expected)
