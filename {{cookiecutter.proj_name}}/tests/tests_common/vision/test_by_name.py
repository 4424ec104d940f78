"""The networks of the room, built by their names in a config."""

import unittest

import torch

from common.config.build import build_model


class TestByName(unittest.TestCase):
    def test_the_rooms_own_models(self):
        self.assertEqual(build_model({"type": "MLP", "sizes": [4, 2]})(torch.zeros(3, 4)).shape, (3, 2))
