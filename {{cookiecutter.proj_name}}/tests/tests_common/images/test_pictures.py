"""Pages of samples: every pixel where it belongs."""

import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from PIL import Image

from common.images.pictures import (
    SamplePage,
    ShownSample,
    as_pictures,
    as_samples,
    color_classes,
    draw_page,
    draw_sample,
    draw_samples,
)

GREEN, RED, GRAY = ((0x2A, 0x9D, 0x3A), (0xD6, 0x28, 0x28), (0x99, 0x99, 0x99))


def darkest(page: torch.Tensor, top: int, left: int, width: int) -> int:
    """Return the darkest value in a line of text."""
    return int(page[:, top : top + 18, left : left + width].min())


class TestBatches(unittest.TestCase):
    def test_triplets(self):
        masks = torch.zeros(3, 1, 96, 96)
        masks[:, :, :20, :30] = 1
        logits = torch.full((3, 1, 96, 96), -1.0)
        logits[1, :, 40:, 40:] = 1
        images = torch.rand(3, 3, 96, 96)
        page = draw_samples({"image": images, "mask": masks}, {"logits": logits}, 2)["triplets"]
        self.assertEqual((tuple(page.shape), page.dtype), ((3, 12 + 120 + 12, 12 + 2 * (310 + 12)), torch.uint8))
        self.assertTrue(page[:, :, :12].eq(255).all() and page[:, :12].eq(255).all())  # white around it
        self.assertEqual(tuple(page[:, 60, 12].tolist()), GRAY)
        for i in range(2):
            left = 12 + 322 * i + 3
            shown = [page[:, 15 : 15 + 96, left + 104 * k :][:, :, :96].float() / 255 for k in range(3)]
            for picture, expected in zip(shown, (images[i], masks[i], (logits[i] > 0).float()), strict=True):
                self.assertLess((picture - expected).abs().max().item(), 0.003)
            for k in range(3):
                self.assertLess(darkest(page, 12 + 102, left + 104 * k, 96), 180)  # what it shows

    def test_guesses(self):
        images, labels = torch.rand(3, 1, 8, 8), torch.tensor([1, 0, 1])
        logits = torch.tensor([[0.0, 1], [0, 1], [0, 1]])
        for classes in (None, ["cat", "dog"]):
            page = draw_samples({"image": images, "label": labels}, {"logits": logits}, 2, classes)["guesses"]
            self.assertEqual(tuple(page.shape), (3, 12 + 120 + 12, 12 + 2 * (102 + 12)))
            enlarged = page[:, 15:111:12, 15:111:12].float() / 255
            self.assertLess((enlarged - images[0]).abs().max().item(), 0.003)
            self.assertEqual([tuple(page[:, 60, left].tolist()) for left in (12, 126)], [GREEN, RED])
            self.assertEqual([darkest(page, 12 + 102, left, 102) < 100 for left in (12, 126)], [True, True])
        one_class = draw_samples({"image": images, "label": labels * 0}, {"logits": torch.ones(3, 1)}, 3, ["cat"])
        self.assertEqual(tuple(one_class["guesses"][:, 60, 12].tolist()), GREEN)

    def test_as_many_as_asked(self):
        page = draw_samples(
            {"image": torch.rand(100, 3, 8, 8), "label": torch.zeros(100).long()}, {"logits": torch.rand(100, 2)}, 100
        )["guesses"]
        self.assertEqual(tuple(page.shape), (3, 12 + 10 * 132, 12 + 10 * 114))

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

    def test_sizes(self):
        for shape, size in (((8, 8), 96), ((96, 50), 96), ((200, 120), 200), ((1000, 3000), 256), ((7, 1), 98)):
            page = draw_page(as_samples({"image": torch.rand(1, 3, *shape)}))
            self.assertEqual(max(page.shape), 2 * 12 + size + 6, shape)

    def test_a_long_title_is_cut(self):
        samples = [ShownSample({"image": torch.ones(3, 8, 8)}, "a very long title of a class " * 9)]
        page = draw_page(samples)
        self.assertEqual(page.shape[2], 126)
        self.assertTrue(page[:, :, :12].eq(255).all() and page[:, :, -12:].eq(255).all())


class TestSamples(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def files(self):
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*.png"))

    def test_labels(self):
        page = SamplePage(self.folder, 2, 0, lambda number: Path(f"some/photo {number}.jpg"))
        data = {"image": torch.rand(1, 4, 4)}
        for number, (guess, label) in enumerate([("b", "b"), ("a", "b"), ("c", "c"), ("d", "d")]):
            row = {"sample": number, "score": 0.5, "label": label, "guess": guess}
            page.add(row, data, {"logits": torch.zeros(4)})
        shown = {is_right: [(sample.title, sample.name) for sample in shown] for is_right, shown in page.groups.items()}
        self.assertEqual(shown, {True: [("b", "photo 0"), ("c", "photo 2")], False: [("a, is b", "photo 1")]})
        self.assertEqual(self.files(), [])
        page.write()
        self.assertEqual(self.files(), ["predictions.png"])
        frames = np.asarray(Image.open(self.folder / "predictions.png"))[60, [12, 126, 240]]
        self.assertEqual([tuple(frame.tolist()) for frame in frames], [RED, GREEN, GREEN])

    def test_a_mask(self):
        data = {"image": torch.rand(3, 4, 4), "mask": torch.ones(1, 4, 4)}
        output = {"logits": torch.full((1, 4, 4), -1.0)}
        page = SamplePage(self.folder, per_group=3, every=2)
        for number in range(5):
            page.add({"sample": 10 + number, "iou": torch.tensor(0.25)}, data, output)
        self.assertEqual([sample.title for sample in page.groups[None]], ["iou 0.25"] * 3)
        self.assertEqual(self.files(), [f"samples/0000{number}.png" for number in (10, 12, 14)])
        self.assertEqual(Image.open(self.folder / "samples/000012.png").size, (12, 4))
        drawn = draw_sample(data, output)
        self.assertEqual(list(drawn), ["image", "truth", "prediction"])
        self.assertTrue(drawn["truth"].eq(1).all() and drawn["prediction"].eq(0).all())
        data["image"].zero_()  # the picture is no view of it
        self.assertTrue(drawn["image"].any())

    def test_files_are_named_after_the_sample(self):
        page = SamplePage(self.folder, 0, 1, ["a/IMG 1.jpg", "b/käse.v2.png", None].__getitem__)
        for number in range(3):
            page.add({"sample": number}, {"image": torch.rand(3, 4, 4)}, {"logits": torch.zeros(2)})
        names = ["samples/000000_IMG_1.png", "samples/000001_käse.v2.png", "samples/000002.png"]
        self.assertEqual(self.files(), names)

    def test_other_tasks(self):
        data, output = {"x": torch.zeros(1)}, {"y": torch.zeros(1)}
        page = SamplePage(self.folder, per_group=3, every=1)
        page.add({"sample": 0, "error": 0.5}, data, output)
        page.write()
        self.assertEqual((page.groups, self.files()), ({None: []}, []))
        self.assertEqual(draw_sample(data, output), {})
