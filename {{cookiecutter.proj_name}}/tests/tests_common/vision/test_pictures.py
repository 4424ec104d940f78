"""Pictures of samples: every pixel where it belongs."""

import tempfile
import unittest
from pathlib import Path

import torch
from loguru import logger
from PIL import Image

from common.vision.pictures import (
    SamplePage,
    ShownSample,
    as_pictures,
    color_classes,
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
        batch = {"image": torch.zeros(1, 1, 2, 2), "label": torch.zeros(1)}
        self.assertEqual(draw_samples(batch, {"logits": [torch.zeros(1, 2)]}, 1), {})
        self.assertEqual(draw_sample({"image": "a.jpg"}, {"logits": torch.zeros(2)}), {})
        self.assertEqual(draw_sample({"image": torch.zeros(1, 2, 2), "mask": None}, {"logits": torch.zeros(2)}), {})
        self.assertEqual(draw_samples({"image": torch.zeros(1, 1, 2, 2)}, {"logits": torch.zeros(1, 2)}, 1), {})

    def test_what_is_no_picture_is_named_once(self):
        images, masks, label = torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8), torch.tensor([0, 1])
        guess, area = torch.rand(2, 5), torch.rand(2, 5, 8, 8)
        cases = {
            r"found \(2, 64\)": ({"image": torch.rand(2, 64), "label": label}, guess),
            r"found \(2, 1, 4, 8, 8\)": ({"image": torch.rand(2, 1, 4, 8, 8), "label": label}, guess),
            "found list": ({"image": ["a.jpg", "b.jpg"], "label": label}, guess),
            r"found \(0, 3, 8, 8\)": ({"image": images[:0], "mask": masks[:0]}, area[:0]),
            r"labels .* found \(2, 5\) and \(2, 5\)": ({"image": images, "label": guess > 0.5}, guess),
            r"labels .* found \(2,\) and \(2,\)": ({"image": images, "label": label}, guess[:, 0]),
            r"labels .* found list and \(2, 5\)": ({"image": images, "label": ["cat", "dog"]}, guess),
            r"masks .* found \(2, 8, 8\) and \(2, 5, 4, 4\)": ({"image": images, "mask": masks}, area[..., ::2, ::2]),
            r"masks .* found \(2, 4, 4\) and": ({"image": images, "mask": masks[:, :4, :4]}, area),
            r"masks .* found \(2, 8, 8\) and \(2, 5\)": ({"image": images, "mask": masks}, guess),
        }
        for message, (batch, logits) in cases.items():
            lines = []
            handler = logger.add(lines.append, level="WARNING")
            for _ in range(2):
                self.assertEqual(draw_samples(batch, {"logits": logits}, 5), {}, message)
            logger.remove(handler)
            self.assertEqual(len(lines), 1)
            self.assertRegex(lines[0], f"not drawn: .*{message}")

    def test_any_number_of_channels(self):
        for channels, shown in ((1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2]), (13, [0, 1, 2])):
            images = torch.rand(2, channels, 64, 64)
            self.assertTrue(as_pictures(images).equal(images[:, shown]))
            batch = {"image": images, "mask": torch.zeros(2, 64, 64)}
            self.assertEqual(draw_samples(batch, {"logits": torch.rand(2, 3, 64, 64)}, 2)["triplets"].shape[0], 3)
            self.assertEqual(draw_sample({"image": images[0]}, {"logits": torch.rand(3)})["image"].shape, (3, 64, 64))

    def test_numbers_that_are_no_class(self):
        for dtype in (torch.uint8, torch.int64):
            numbers = torch.tensor([[[0, 2], [255, 3]]], dtype=dtype)
            self.assertEqual(color_classes(numbers, 3)[0, :, 1].tolist(), [[0.5, 0.5]] * 3)
        self.assertEqual(color_classes(torch.tensor([[[-1]]]), 3).flatten().tolist(), [0.5] * 3)

    def test_ranges(self):
        self.assertTrue(as_pictures(torch.full((1, 1, 2, 2), 51, dtype=torch.uint8)).allclose(torch.tensor(0.2)))
        normalized = as_pictures(torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 3, 1, 1))
        self.assertEqual(normalized.flatten().tolist(), [0.0, 0.5, 1.0])
        self.assertTrue(as_pictures(torch.full((1, 3, 2, 2), 5.0)).isfinite().all())

    def test_colors_differ(self):
        colors = color_classes(torch.arange(9).reshape(1, 3, 3), 9)[0].flatten(1).T
        self.assertEqual(colors[0].tolist(), [0.0, 0.0, 0.0])
        distances = torch.cdist(colors, colors) + 9 * torch.eye(9)
        self.assertGreater(distances.min().item(), 0.2)


class TestSamples(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def files(self):
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.png"))

    def test_labels(self):
        page, data = SamplePage(self.folder, per_group=2, every=0), {"image": torch.rand(1, 4, 4)}
        for number, (guess, label) in enumerate([(2, 2), (0, 2), (1, 1), (3, 3)]):
            row = {"sample": number, "score": 0.5, "label": label, "guess": guess}
            page.add(row, data, {"logits": torch.zeros(4)})
        titles = {group: [sample.title for sample in samples] for group, samples in page.groups.items()}
        self.assertEqual(titles, {"right": ["2", "1"], "wrong": ["0, is 2"]})
        self.assertEqual(self.files(), [])
        page.write()
        self.assertEqual(self.files(), ["predictions.png"])

    def test_a_mask(self):
        data = {"image": torch.rand(3, 4, 4), "mask": torch.ones(1, 4, 4)}
        output = {"logits": torch.full((1, 4, 4), -1.0)}
        page = SamplePage(self.folder, per_group=3, every=2)
        for number in range(5):
            page.add({"sample": 10 + number, "iou": torch.tensor(0.25)}, data, output)
        self.assertEqual([sample.title for sample in page.groups[""]], ["iou 0.25"] * 3)
        self.assertEqual(self.files(), [f"samples/0000{number}.png" for number in (10, 12, 14)])
        self.assertEqual(Image.open(self.folder / "samples/000012.png").size, (12, 4))
        pictures = draw_sample(data, output)
        self.assertEqual(list(pictures), ["image", "truth", "prediction"])
        self.assertTrue(pictures["truth"].eq(1).all() and pictures["prediction"].eq(0).all())
        data["image"].zero_()  # the picture is no view of it
        self.assertTrue(pictures["image"].any())

    def test_other_tasks(self):
        data, output = {"x": torch.zeros(1)}, {"y": torch.zeros(1)}
        page = SamplePage(self.folder, per_group=3, every=1)
        page.add({"sample": 0, "error": 0.5}, data, output)
        page.write()
        self.assertEqual((page.groups, self.files()), ({"": []}, []))
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
