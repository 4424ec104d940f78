"""Models in and out of their wrappers."""

import unittest

import torch
from torch import nn

from common.parallel import parallelize, set_gradient_sync


class TestOneProcess(unittest.TestCase):
    """With one process there is no wrapper; the tests of the trainer have two."""

    def test_the_model_itself(self):
        model = nn.Linear(1, 1)
        self.assertIs(parallelize(model, torch.device("cpu")), model)
        set_gradient_sync([model], False)
        self.assertFalse(hasattr(model, "require_backward_grad_sync"))
