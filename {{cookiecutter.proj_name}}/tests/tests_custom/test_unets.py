"""UNet and UNet++."""

import unittest

import torch

from tests.exported import check_compiled_and_exported
from custom.models.unet_model import UNet
from custom.models.unet_plus_plus_model import UNetPlusPlus

MODELS = (UNet, {}), (UNetPlusPlus, {}), (UNetPlusPlus, {"deep_supervision": True})


class TestUNets(unittest.TestCase):
    def test_any_size(self):
        for kind, keys in MODELS:
            for channels, classes, depth in ((3, 1, 4), (1, 5, 2)):
                model = kind(channels, classes, width=4, depth=depth, **keys)
                for size in ((16, 16), (17, 31), (50, 23)):
                    self.assertEqual(model(torch.rand(2, channels, *size)).shape, (2, classes, *size))

    def test_a_gradient_reaches_every_parameter(self):
        for kind, keys in MODELS:
            model = kind(width=4, depth=3, **keys)
            model(torch.rand(2, 3, 21, 19)).square().sum().backward()
            for name, parameter in model.named_parameters():
                self.assertTrue(parameter.grad is not None and parameter.grad.abs().sum() > 0, (kind, keys, name))

    def test_every_pixel_sees_far(self):
        torch.manual_seed(0)
        for kind, keys in MODELS:
            model = kind(width=4, depth=3, **keys).eval()
            image = torch.rand(1, 3, 33, 33, requires_grad=True)
            model(image)[0, 0, 16, 16].backward()
            seen = image.grad.abs().sum((0, 1)) > 0
            self.assertGreater(seen.float().mean().item(), 0.6, kind)

    def test_parameters_as_in_the_papers_drawing(self):
        # A block of two convolutions has 9 (a b + b b) weights and 4 b of batch-norm.
        block = lambda a, b: 9 * (a * b + b * b) + 4 * b  # noqa: E731
        widths = [4, 8, 16]
        down = sum(block(a, b) for a, b in zip([3, *widths], widths, strict=False))
        unet = down + block(4 + 8, 4) + block(8 + 16, 8) + 4 + 1
        plus = unet - block(4 + 8, 4) + block(4 + 8, 4) + block(2 * 4 + 8, 4)
        for kind, expected in ((UNet, unet), (UNetPlusPlus, plus)):
            self.assertEqual(sum(p.numel() for p in kind(width=4, depth=2).parameters()), expected)

    def test_compiled_and_exported(self):
        for kind, keys in MODELS[:2]:
            check_compiled_and_exported(self, kind(width=4, depth=3, **keys), torch.rand(2, 3, 37, 29))
