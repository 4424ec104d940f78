"""The blocks of a transformer, their cache, and what a model of them gives an optimizer and the strategies."""

import unittest

import torch
from torch import nn

from common.config.errors import UserError
from common.text.transformer import Block, Cache, CausalAttention, TransformerModel


class Model(TransformerModel):
    """A model of small blocks."""

    def __init__(self, context=12, width=8, heads=2, depth=3):
        super().__init__()
        self.context, self.embedding = context, nn.Embedding(20, width)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 20)
        self.start()

    def forward(self, tokens, cache=None):
        places = self.place(tokens, cache)
        x = self.embedding(tokens) + torch.arange(places.start, places.stop)[:, None] / 10
        for i, block in enumerate(self.layers):
            x = block(x, cache.layers[i] if cache else None)
        return self.head(self.norm(x))


class TestAttention(unittest.TestCase):
    def test_by_hand(self):
        torch.manual_seed(0)
        layer, x = CausalAttention(12, 3).double(), torch.randn(2, 5, 12).double()
        heads = []
        for head in range(3):
            rows = layer.qkv(x)[..., 12 * head : 12 * head + 12]
            q, k, v = rows.split(4, dim=-1)
            scores = (q @ k.transpose(1, 2) / 2).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
            heads.append(scores.softmax(-1) @ v)
        torch.testing.assert_close(layer(x), layer.out(torch.cat(heads, dim=-1)))

    def test_heads_must_divide_the_width(self):
        for heads in (3, 0, -1):
            with self.assertRaisesRegex(ValueError, f"heads must divide width, found {heads} and 8"):
                CausalAttention(8, heads)

    def test_a_layer_that_is_not_divided_into_whole_heads(self):
        layer = CausalAttention(8, 2)
        layer.qkv = nn.Linear(8, 8)  # what one of three processes would hold
        with self.assertRaisesRegex(UserError, "^model.heads: expected a multiple of the processes"):
            layer(torch.randn(1, 2, 8))


class TestModel(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.model = Model().double().eval()
        self.tokens = torch.randint(20, (2, 9))

    def test_no_token_sees_a_later_one(self):
        changed = self.tokens.clone()
        changed[:, 5:] = (changed[:, 5:] + 1) % 20
        one, other = self.model(self.tokens), self.model(changed)
        torch.testing.assert_close(one[:, :5], other[:, :5], rtol=0, atol=0)
        self.assertFalse(torch.isclose(one[:, 5:], other[:, 5:]).all())

    def test_a_cache_gives_the_same(self):
        cache, parts = Cache(3, 12), []
        for part in (self.tokens[:, :4], *self.tokens[:, 4:].split(1, dim=1)):
            parts.append(self.model(part, cache))
        self.assertEqual(cache.length, 9)
        torch.testing.assert_close(torch.cat(parts, dim=1), self.model(self.tokens), rtol=0, atol=1e-12)

    def test_a_cache_reads_one_token_at_a_time(self):
        cache = Cache(3, 12)
        self.model(self.tokens[:, :2], cache)
        with self.assertRaisesRegex(ValueError, "expected one token after the first call, found 2"):
            self.model(self.tokens[:, 2:4], cache)

    def test_more_than_the_context(self):
        with self.assertRaisesRegex(UserError, "^model.context: 12 tokens, but a block of the data set has 13"):
            self.model(torch.zeros(1, 13, dtype=torch.long))

    def test_no_blocks_or_no_context(self):
        for keys in ({"depth": 0}, {"context": 0}):
            with self.assertRaisesRegex(ValueError, "depth and context must be at least 1"):
                Model(**keys)

    def test_parameter_groups(self):
        decayed, spared = self.model.parameter_groups()
        self.assertEqual(spared["weight_decay"], 0.0)
        self.assertNotIn("weight_decay", decayed)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        self.assertEqual({names[p].rsplit(".", 1)[-1] for p in decayed["params"]}, {"weight"})
        self.assertTrue(all("norm" in names[p] or "bias" in names[p] for p in spared["params"]))
        self.assertEqual(len(decayed["params"]) + len(spared["params"]), len(names))

    def test_initial_weights(self):
        model = Model(width=64, depth=8)
        self.assertAlmostEqual(model.layers[0].up.weight.std().item(), 0.02, delta=0.002)
        self.assertAlmostEqual(model.layers[0].down.weight.std().item(), 0.02 / 4, delta=0.0005)
        self.assertEqual(model.layers[0].up.bias.abs().max().item(), 0)
        self.assertEqual(model.norm.weight.min().item(), 1)

    def test_the_plan_names_layers(self):
        names = {
            f"layers.*.{name.split('.', 2)[2]}"
            for name, one in self.model.named_modules()
            if "layers." in name and isinstance(one, nn.Linear)
        }
        self.assertEqual(set(self.model.tensor_parallel_plan()), names)
        self.assertEqual(self.model.blocks(), list(self.model.layers))


if __name__ == "__main__":
    unittest.main()
