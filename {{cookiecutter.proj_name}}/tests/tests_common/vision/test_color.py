"""Colors: each change against its definition."""

import colorsys
import math
import unittest

import torch

from common.vision.pipeline import Pipeline

GRAY = torch.tensor([0.299, 0.587, 0.114])


def change(image, name, value, p=1.0):
    """Return an image (3, H, W) after one change by a fixed value."""
    section = {"type": "RandomColorJitter", f"{name}_limit": [value, value], f"{name}_p": p}
    return Pipeline([section])({"image": image})["image"]


class TestColor(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.image = torch.rand(3, 12, 10) * 0.5 + 0.2

    def expect(self, found, expected):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)

    def test_brightness(self):
        self.expect(change(self.image, "brightness", 1.7), (self.image * 1.7).clamp(0, 1))

    def test_contrast(self):
        mean = (self.image * GRAY[:, None, None]).sum(0).mean()
        self.expect(change(self.image, "contrast", 0.4), mean + (self.image - mean) * 0.4)

    def test_saturation(self):
        gray = (self.image * GRAY[:, None, None]).sum(0)
        self.expect(change(self.image, "saturation", 1.3), (gray + (self.image - gray) * 1.3).clamp(0, 1))

    def test_hue(self):
        moved = change(self.image, "hue", 0.15)
        for row, column in ((0, 0), (5, 7), (11, 9)):
            h, s, v = colorsys.rgb_to_hsv(*self.image[:, row, column].tolist())
            expected = torch.tensor(colorsys.hsv_to_rgb((h + 0.15) % 1, s, v))
            torch.testing.assert_close(moved[:, row, column], expected, rtol=0, atol=1e-5)

    def test_gamma(self):
        self.expect(change(self.image, "gamma", 2.2), self.image**2.2)

    def test_blur(self):
        moved = change(self.image, "blur", 5)
        sigma = 0.15 * 5 + 0.35
        weights = torch.tensor([math.exp(-(i**2) / (2 * sigma**2)) for i in range(-2, 3)])
        weights /= weights.sum()
        kernel = weights[:, None] * weights
        self.expect(moved[:, 4, 5], (self.image[:, 2:7, 3:8] * kernel).sum((1, 2)))

    def test_one_channel(self):
        gray = self.image[:1]
        for name in ("saturation", "hue"):
            self.assertTrue(change(gray, name, 0.3).equal(gray))
        self.expect(change(gray, "contrast", 0.4), gray.mean() + (gray - gray.mean()) * 0.4)

    def test_probability_and_limits(self):
        images = torch.full((3000, 1, 1, 1), 0.5)
        section = {"type": "RandomColorJitter", "brightness_limit": [0.6, 1.2], "brightness_p": 0.3}
        factors = Pipeline([section]).on_batch({"image": images})["image"].flatten() / 0.5
        changed = factors[factors != 1]
        self.assertAlmostEqual(len(changed) / 3000, 0.3, delta=0.03)
        self.assertTrue(changed.min() >= 0.6 and changed.max() <= 1.2)
        self.assertAlmostEqual(changed.mean().item(), 0.9, delta=0.03)

    def test_the_image_given_is_left_alone(self):
        before = self.image.clone()
        for name, value in (("brightness", 0.5), ("contrast", 0.5), ("saturation", 0.5), ("hue", 0.2), ("gamma", 2.0)):
            self.assertFalse(change(self.image, name, value).equal(before))
            self.assertTrue(self.image.equal(before), name)
            self.assertTrue(change(self.image, name, value, p=0.0).equal(before), name)
