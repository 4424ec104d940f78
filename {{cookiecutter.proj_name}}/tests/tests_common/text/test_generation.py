"""Text that a model makes up."""

import unittest

import torch
from torch import nn
from torch.nn import functional

from common.text.generation import continue_text, draw_next, generate
from common.text.tokens import ByteTokens
from tests.tests_common.text.test_transformer import Model


def plainly(model, tokens, count):
    """Return the likeliest tokens, each found from all those before it, up to the model's context."""
    start = tokens.shape[1]
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens[:, -model.context :])[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens[:, start:]


class TestDrawNext(unittest.TestCase):
    def setUp(self):
        self.logits = torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, 0.0, 0.0, 0.0]])

    def draws(self, **keys):
        generator = torch.Generator().manual_seed(0)
        return torch.cat([draw_next(self.logits, generator=generator, **keys) for _ in range(4000)], dim=1)

    def test_by_the_probabilities(self):
        for temperature in (1.0, 0.5, 2.0):
            found = torch.nn.functional.one_hot(self.draws(temperature=temperature)).float().mean(1)
            torch.testing.assert_close(found, (self.logits / temperature).softmax(-1), rtol=0, atol=0.03)

    def test_among_the_likeliest(self):
        self.assertEqual(set(self.draws(top_k=2)[0].tolist()), {1, 2})
        self.assertEqual(set(self.draws(top_k=1)[0].tolist()), {1})
        self.assertEqual(set(self.draws(top_k=9)[0].tolist()), {0, 1, 2, 3})

    def test_the_likeliest(self):
        self.assertEqual(draw_next(self.logits, temperature=0).tolist(), [[1], [0]])

    def test_wrong_settings(self):
        for keys in ({"temperature": -1.0}, {"top_k": 0}):
            with self.assertRaisesRegex(ValueError, "temperature from 0 and top_k from 1, found"):
                draw_next(self.logits, **keys)


class TestGenerate(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.model = Model(context=10).double().eval()
        for parameter in self.model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.5)  # so that the likeliest token changes

    def test_the_cache_changes_nothing(self):
        tokens = torch.randint(20, (3, 2))
        made = generate(self.model, tokens, 8, temperature=0)
        self.assertGreater(len(set(made.flatten().tolist())), 3)
        self.assertEqual(made.tolist(), plainly(self.model, tokens, 8).tolist())

    def test_beyond_the_context_it_goes_on_from_the_last_half(self):
        tokens = torch.randint(20, (1, 4))
        made = generate(self.model, tokens, 20, temperature=0)
        first = plainly(self.model, tokens, 7)  # the last of them is drawn when ten have been read
        self.assertEqual(made[:, :7].tolist(), first.tolist())
        half = torch.cat([tokens, first], dim=1)[:, -5:]
        self.assertEqual(made[:, 7:12].tolist(), plainly(self.model, half, 5).tolist())
        self.assertEqual(made.shape, (1, 20))

    def test_a_model_without_a_cache(self):
        model = nn.Sequential(self.model.embedding, self.model.head)  # which sees the last token alone
        tokens = torch.randint(20, (2, 3))
        model.context = 10
        self.assertEqual(generate(model, tokens, 12, temperature=0).tolist(), plainly(model, tokens, 12).tolist())
        del model.context
        self.assertEqual(generate(model, tokens, 12, temperature=0).shape, (2, 12))

    def test_a_prompt_longer_than_the_context(self):
        tokens = torch.randint(20, (1, 25))
        self.assertEqual(
            generate(self.model, tokens, 1, temperature=0).tolist(), plainly(self.model, tokens[:, -10:], 1).tolist()
        )


class TestText(unittest.TestCase):
    def test_the_same_for_the_same_seed(self):
        model = nn.Module()
        model.context, model.weight = 4, nn.Parameter(torch.zeros(1))
        model.blocks = lambda: [None]
        model.forward = self.even
        texts = [continue_text(model, ByteTokens(), "é", 50, seed=seed, top_k=26) for seed in (1, 1, 2)]
        self.assertEqual(texts[0], texts[1])
        self.assertNotEqual(texts[0], texts[2])
        self.assertRegex(texts[0], "^é[a-z]{50}$")
        self.assertEqual(self.seen[:3], [0, *"é".encode()])

    def test_nothing_controls_the_terminal(self):
        model = nn.Module()
        model.weight = nn.Parameter(torch.zeros(1))
        model.forward = lambda tokens: functional.one_hot((tokens - 1) % 256, 256)  # 30, 29, 28, ...: ESC among them
        text = continue_text(model, ByteTokens(), "\x1f", 24, temperature=0)
        self.assertFalse([one for one in text if not one.isprintable() and one not in "\n\t"])
        self.assertEqual((len(text), "\n" in text, "\t" in text), (25, True, True))

    seen: list = []

    def even(self, tokens, cache):
        """Return logits by which each small letter is as likely as the others."""
        self.seen += tokens[0].tolist()
        logits = torch.full((1, tokens.shape[1], 256), -1.0)
        logits[..., ord("a") : ord("z") + 1] = 1.0
        cache.layers[0].length += tokens.shape[1]
        return logits


if __name__ == "__main__":
    unittest.main()
