"""Pictures of samples: every pixel where it belongs."""

import unittest

import torch

from common.vision.pictures import (
    ShownSample,
    as_pictures,
    colour_classes,
    describe_sample,
    draw_sample,
    draw_samples,
    sample_figure,
)


class TestBatches(unittest.TestCase):
    def test_triplets(self):
        masks = torch.zeros(3, 1, 64, 64)
        masks[:, :, :20, :30] = 1
        logits = torch.full((3, 1, 64, 64), -1.0)
        logits[1, :, 40:, 40:] = 1
        images = torch.rand(3, 3, 64, 64)
        drawn = draw_samples({"image": images, "mask": masks}, {"logits": logits}, 2)
        self.assertEqual({name: tuple(picture.shape) for name, picture in drawn.items()}, {"triplets": (3, 198, 132)})
        rows = drawn["triplets"].split(66, dim=1)
        for i in range(2):
            image, truth, guess = (row[:, 1:65, 66 * i + 1 : 66 * i + 65] for row in rows)
            self.assertTrue(image.equal(images[i]))
            self.assertTrue(truth.equal(masks[i].expand(3, -1, -1)))
            self.assertTrue(guess.equal((logits[i] > 0).float().expand(3, -1, -1)))

    def test_guesses(self):
        images, labels = torch.rand(2, 1, 8, 8), torch.tensor([1, 0])
        drawn = draw_samples({"image": images, "label": labels}, {"logits": torch.tensor([[0.0, 1], [0, 1]])}, 5)
        picture = drawn["guesses"]
        self.assertTrue(picture[:, 1:65:8, 1:65:8].equal(images[0].expand(3, -1, -1)))
        right, wrong = picture[:, -2, 30], picture[:, -2, 96]
        self.assertGreater(right[1], right[0])
        self.assertGreater(wrong[0], wrong[1])

    def test_other_tasks(self):
        self.assertEqual(draw_samples({"x": torch.zeros(1)}, {"logits": torch.zeros(1, 2)}, 1), {})
        self.assertEqual(draw_samples({"image": torch.zeros(1, 1, 2, 2)}, {"logits": torch.zeros(1, 2)}, 1), {})

    def test_ranges(self):
        self.assertTrue(as_pictures(torch.full((1, 1, 2, 2), 51, dtype=torch.uint8)).allclose(torch.tensor(0.2)))
        normalised = as_pictures(torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 3, 1, 1))
        self.assertEqual(normalised.flatten().tolist(), [0.0, 0.5, 1.0])
        self.assertTrue(as_pictures(torch.full((1, 3, 2, 2), 5.0)).isfinite().all())

    def test_colours_differ(self):
        colours = colour_classes(torch.arange(9).reshape(1, 3, 3), 9)[0].flatten(1).T
        self.assertEqual(colours[0].tolist(), [0.0, 0.0, 0.0])
        distances = torch.cdist(colours, colours) + 9 * torch.eye(9)
        self.assertGreater(distances.min().item(), 0.2)


class TestSamples(unittest.TestCase):
    def test_a_label(self):
        data = {"image": torch.rand(1, 4, 4), "label": torch.tensor(2)}
        for logits, group, title in (([0.0, 0, 3], "right", "2"), ([3.0, 0, 0], "wrong", "0, is 2")):
            sample = describe_sample(data, {"logits": torch.tensor(logits)}, {})
            self.assertEqual((sample.group, sample.title), (group, title))
            self.assertEqual((sample.facts["label"], sample.facts["guess"]), (2, int(title[0])))
            self.assertAlmostEqual(sample.facts["confidence"], 0.9094, places=4)

    def test_a_mask(self):
        data = {"image": torch.rand(3, 4, 4), "mask": torch.ones(1, 4, 4)}
        output = {"logits": torch.full((1, 4, 4), -1.0)}
        self.assertEqual(describe_sample(data, output, {"iou": torch.tensor(0.25)}).title, "iou 0.25")
        pictures = draw_sample(data, output)
        self.assertEqual(list(pictures), ["image", "truth", "prediction"])
        self.assertTrue(pictures["truth"].eq(1).all() and pictures["prediction"].eq(0).all())
        data["image"].zero_()  # of which the picture is no view
        self.assertTrue(pictures["image"].any())

    def test_other_tasks(self):
        data, output = {"x": torch.zeros(1)}, {"y": torch.zeros(1)}
        sample = describe_sample(data, output, {"error": 0.5})
        self.assertEqual((sample.pictures, sample.title, sample.facts), ({}, "error 0.50", {}))
        self.assertEqual(draw_sample(data, output), {})

    def test_a_page(self):
        samples = [
            ShownSample({"image": torch.rand(3, 8, 8), "truth": torch.rand(3, 8, 8)}, f"no. {i}") for i in range(3)
        ]
        axes = sample_figure([("first", samples[:2]), ("second", samples[2:])]).axes
        self.assertEqual([len(axis.images) for axis in axes], [1, 1, 1, 1, 1, 1, 0, 0])
        self.assertEqual([axis.get_title() for axis in axes if axis.get_title()], ["no. 0", "no. 1", "no. 2"])
        self.assertEqual([axis.get_ylabel() for axis in axes if axis.get_ylabel()], ["first", "second"])
        self.assertEqual([axis.get_xlabel() for axis in axes[4:]], ["image", "truth", "", ""])
