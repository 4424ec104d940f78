"""Residual networks."""

import unittest

import torch

from common.vision.resnet import ResNet
from tests.exported import check_compiled_and_exported


class TestResNet(unittest.TestCase):
    def test_published_sizes(self):
        for depth, count in ((18, 11_689_512), (34, 21_797_672), (50, 25_557_032)):
            with torch.device("meta"):
                model = ResNet(depth)
            self.assertEqual(sum(parameter.numel() for parameter in model.parameters()), count)

    def test_shapes(self):
        for depth in (18, 34, 50):
            for small, channels, size in ((True, 3, (32, 32)), (True, 1, (19, 27)), (False, 3, (65, 97))):
                model = ResNet(depth, num_classes=7, in_channels=channels, small_images=small)
                self.assertEqual(model(torch.rand(2, channels, *size)).shape, (2, 7))

    def test_small_images_keep_their_size_at_the_start(self):
        model = ResNet(18, small_images=True)
        self.assertEqual(model.maxpool(model.conv1(torch.rand(1, 3, 32, 32))).shape, (1, 64, 32, 32))
        model = ResNet(18)
        self.assertEqual(model.maxpool(model.conv1(torch.rand(1, 3, 32, 32))).shape, (1, 64, 8, 8))

    def test_a_gradient_reaches_every_parameter(self):
        for depth in (18, 34, 50):
            model = ResNet(depth, num_classes=5, small_images=True)
            model(torch.rand(4, 3, 33, 31)).square().sum().backward()
            for name, parameter in model.named_parameters():
                self.assertTrue(parameter.grad is not None and parameter.grad.abs().sum() > 0, name)

    def test_blocks(self):
        self.assertEqual([len(ResNet(depth).blocks()) for depth in (18, 34, 50)], [8, 16, 16])

    def test_another_depth(self):
        with self.assertRaisesRegex(ValueError, "depth must be one of 18, 34, 50, found 19"):
            ResNet(19)

    def test_compiled_and_exported(self):
        for depth in (18, 50):
            model = ResNet(depth, num_classes=5, small_images=True)
            check_compiled_and_exported(self, model, torch.rand(2, 3, 33, 31))
