"""A text is continued by what the model expects next, in batches too."""

import io
import unittest

import torch
from torch import nn

from common.deploy.predictor import InputError, Predictor
from common.deploy.task import About
from custom.tasks.continue_text import ContinueText


class Alphabet(nn.Module):
    """Expects the byte after the last one."""

    def __init__(self):
        super().__init__()
        self.longest = 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.longest = max(self.longest, tokens.shape[1])
        return nn.functional.one_hot(tokens + 1, 256).float()


class TestContinueText(unittest.TestCase):
    def setUp(self):
        self.model = Alphabet()
        config = {"model": {"context": 5}, "task": {"type": ContinueText.__name__, "length": 3}}
        self.predictor = Predictor(self.model, About(config), torch.device("cpu"))

    def test_texts_of_any_length(self):
        answers = self.predictor(["ab", "kl", "the letter m", "z"])
        self.assertEqual([answer["text"] for answer in answers], ["cde", "mno", "nop", "{|}"])
        self.assertEqual(self.model.longest, 5)

    def test_files_and_what_is_no_text(self):
        self.assertEqual(self.predictor(io.BytesIO(b"ab"))["text"], "cde")
        self.assertEqual(self.predictor("é")["text"], "\ufffd" * 3)
        with self.assertRaisesRegex(InputError, "expected a text, found an empty one"):
            self.predictor("")
