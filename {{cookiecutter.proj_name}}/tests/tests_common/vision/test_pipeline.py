"""Transforms by name: what they move together, what they draw, and what they refuse."""

import unittest

import numpy as np
import torch
from PIL import Image

from common.config.build import build_loader
from common.config.errors import UserError
from common.config.registry import DATASET_REGISTRY
from common.config.schema import Config, DatasetConfig
from common.data import BaseDataset, make_loader
from common.data.dataset import View
from common.vision.pipeline import Pipeline

# A rectangle from row 6 to 15 and column 10 to 29, edges at 16 and 30.
TOP, LEFT, BOTTOM, RIGHT = 6, 10, 16, 30


def scene():
    """Return a rectangle: as a picture, as a mask, as a box, and the center of its first pixel."""
    image = torch.zeros(3, 40, 60)
    image[:, TOP:BOTTOM, LEFT:RIGHT] = 1
    return {
        "image": image,
        "mask": image[0].long() * 3,
        "boxes": torch.tensor([[LEFT, TOP, RIGHT, BOTTOM]]).float(),
        "keypoints": torch.tensor([[LEFT, TOP]]).float(),
        "label": 7,
    }


def bounds(mask):
    """Return left, top, right and bottom edge of what is not 0."""
    rows, columns = mask.nonzero().T
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


class TestAlignment(unittest.TestCase):
    """What lies on the image stays on it."""

    CASES = (
        *({"type": "RandomFlip", "direction": name, "p": 1.0} for name in ("horizontal", "vertical", "diagonal")),
        {"type": "Resize", "target_size": [20, 30]},
        {"type": "Resize", "target_size": [80, 90], "interpolation": "bicubic"},
        {"type": "Resize", "target_size": 50, "keep_ratio": True, "interpolation": "nearest"},
        {"type": "Resize", "target_size": [120, 90], "keep_ratio": True},
        {"type": "RandomCrop", "size": [24, 32]},
        {"type": "CenterCrop", "size": [32, 48]},
        {"type": "RandomRotation90", "times": [1, 3], "p": 1.0},
        {"type": "RandomResizedCrop", "size": [32, 32], "scale": [0.6, 1.0]},
    )

    def check(self, moved):
        mask = moved["mask"] > 0
        self.assertEqual(moved["mask"].dtype, torch.int64)
        self.assertEqual(moved["mask"].unique().tolist(), [0, 3])
        seen = moved["image"][0] > 0.5
        self.assertEqual(mask.shape, seen.shape)
        self.assertGreater((mask & seen).sum() / (mask | seen).sum(), 0.85)
        self.assertLessEqual((moved["boxes"][0] - bounds(mask)).abs().max(), 1.0)
        self.assertEqual(moved["label"], 7)

    def test_of_a_sample(self):
        for section in self.CASES:
            for seed in range(5):
                with self.subTest(section=section, seed=seed):
                    torch.manual_seed(seed)
                    self.check(Pipeline([section])(scene()))

    def test_of_a_batch(self):
        batch = {key: torch.stack([value] * 8) for key, value in scene().items() if key != "label"}
        for section in self.CASES:
            with self.subTest(section=section):
                torch.manual_seed(0)
                moved = Pipeline([section]).on_batch({**batch, "label": 7})
                for i in range(8):
                    self.check({key: value if key == "label" else value[i] for key, value in moved.items()})

    def test_a_chain(self):
        for seed in range(10):
            torch.manual_seed(seed)
            self.check(Pipeline([self.CASES[0], self.CASES[3], self.CASES[1]])(scene()))

    def test_flips_are_exact(self):
        for direction, axes in (("horizontal", [-1]), ("vertical", [-2]), ("diagonal", [-1, -2])):
            sample = scene()
            moved = Pipeline([{"type": "RandomFlip", "direction": direction, "p": 1.0}])(sample)
            for key in ("image", "mask"):
                self.assertTrue(moved[key].equal(sample[key].flip(axes)), (direction, key))
            self.assertTrue(moved["boxes"][0].equal(bounds(moved["mask"])), direction)
            x, y = moved["keypoints"][0].long().tolist()
            corner = moved["mask"][y, x], moved["mask"].sum()
            self.assertEqual(corner, (3, sample["mask"].sum()), direction)

    def test_keypoints_follow_a_resize(self):
        moved = Pipeline([{"type": "Resize", "target_size": [80, 120]}])(scene())
        self.assertEqual(moved["keypoints"].tolist(), [[2 * LEFT + 0.5, 2 * TOP + 0.5]])

    def test_boxes_end_at_the_border(self):
        moved = Pipeline([{"type": "CenterCrop", "size": [40, 30]}])(scene())
        self.assertEqual(moved["boxes"].tolist(), [[0.0, TOP, RIGHT - 15.0, BOTTOM]])

    def test_kept_ratio_fills_with_nothing(self):
        moved = Pipeline([{"type": "Resize", "target_size": [60, 60], "keep_ratio": True}])(
            {"image": torch.ones(1, 40, 60), "mask": torch.ones(1, 40, 60)}
        )
        for key in ("image", "mask"):
            self.assertTrue(moved[key][:, :40].gt(0.99).all() and moved[key][:, 40:].eq(0).all(), key)

    def test_no_boxes(self):
        sample = {**scene(), "boxes": torch.zeros(0, 4)}
        self.assertEqual(Pipeline([self.CASES[0]])(sample)["boxes"].shape, (0, 4))


class TestChance(unittest.TestCase):
    """What is drawn, and from what."""

    def test_how_often_and_where_to(self):
        images = torch.arange(4.0).reshape(1, 1, 2, 2).expand(4000, 1, 2, 2) / 4
        torch.manual_seed(0)
        flip = {"type": "RandomFlip", "direction": ["horizontal", "vertical", "diagonal"], "p": 0.6}
        moved = Pipeline([flip]).on_batch({"image": images})["image"].flatten(1) * 4
        shares = [(moved == torch.tensor(row)).all(1).float().mean().item() for row in
                  ([0.0, 1, 2, 3], [1.0, 0, 3, 2], [2.0, 3, 0, 1], [3.0, 2, 1, 0])]  # fmt: skip
        for share, expected in zip(shares, [0.4, 0.2, 0.2, 0.2], strict=True):
            self.assertAlmostEqual(share, expected, delta=0.03)

    def test_any_number_of_workers_gives_the_same(self):
        sections = [
            {"type": "RandomFlip", "p": 0.5},
            {"type": "RandomColorJitter", "brightness_limit": [0.5, 1.5], "blur_limit": [3, 7]},
            {"type": "RandomCrop", "size": [6, 6]},
        ]

        def batches(worker, epoch):
            loader = make_loader(View(Noise(), None, Pipeline(sections)), 4, worker, training=True, seed=3)
            loader.batch_sampler.set_position(epoch)
            return [batch["image"] for batch in loader]

        expected = batches(0, 1)
        for worker in (0, 1, 2):
            for one, other in zip(expected, batches(worker, 1), strict=True):
                self.assertTrue(one.equal(other), worker)
        self.assertFalse(expected[0].equal(batches(0, 2)[0]))


class Noise(BaseDataset):
    """Ten noisy images."""

    def __init__(self):
        super().__init__("data")

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"image": torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(index))}


class TestConversion(unittest.TestCase):
    """ToTensor."""

    def test_of_everything(self):
        pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
        expected = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        for image in (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1), expected):
            moved = Pipeline([{"type": "ToTensor"}])({"image": image})["image"]
            self.assertTrue(moved.equal(expected), type(image))
        gray = Pipeline([{"type": "ToTensor"}])({"image": Image.fromarray(pixels[:, :, 0])})["image"]
        self.assertTrue(gray.equal(expected[:1]))

    def test_of_a_batch(self):
        batch = {"image": torch.full((2, 1, 3, 3), 255, dtype=torch.uint8)}
        self.assertTrue(Pipeline([{"type": "ToTensor"}]).on_batch(batch)["image"].equal(torch.ones(2, 1, 3, 3)))

    def test_kornia_is_not_needed_for_it(self):
        self.assertIsNone(Pipeline([{"type": "ToTensor"}])._augment)

    def test_kornias_own(self):
        section = {"type": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
        moved = Pipeline([section])({"image": torch.full((3, 4, 4), 0.75), "mask": torch.ones(1, 4, 4)})
        self.assertTrue(moved["image"].equal(torch.ones(3, 4, 4)) and moved["mask"].equal(torch.ones(1, 4, 4)))


class TestRefused(unittest.TestCase):
    """Mistakes, each told in one line."""

    def test_in_the_config(self):
        flip = {"type": "RandomFlip"}
        for sections, message in (
            ({"type": "RandomFlip"}, "transforms: expected a list of sections with a 'type', found {'type'"),
            (["RandomFlip"], "transforms.0: expected a section with a 'type', found 'RandomFlip'"),
            (
                [flip, {"type": "RandomFlp"}],
                "transforms.1.type: unknown transform 'RandomFlp', did you mean 'RandomFlip'",
            ),
            ([flip, {"type": "ToTensor"}], "transforms.1: ToTensor comes first"),
            ([{**flip, "way": 1}], r"transforms.0: .*'way'; the signature is RandomFlip\(direction"),
            ([{**flip, "direction": "up"}], "transforms.0: RandomFlip: direction must be of horizontal, .*found 'up'"),
            (
                [{"type": "Resize", "target_size": 9, "interpolation": "x"}],
                "Resize: interpolation must be one of nearest",
            ),
            (
                [{"type": "RandomColorJitter", "hue_limit": [1, 0]}],
                "a limit is the smallest and the largest value, found",
            ),
        ):
            with self.assertRaisesRegex(UserError, message):
                Pipeline(sections)

    def test_in_the_data(self):
        flip = Pipeline([{"type": "RandomFlip"}])
        with self.assertRaisesRegex(ValueError, "the image has dtype torch.uint8; .*begin with {type: ToTensor}"):
            flip({"image": torch.zeros(3, 4, 4, dtype=torch.uint8)})
        with self.assertRaisesRegex(ValueError, "the mask has 4 x 5 pixels, the image 4 x 6"):
            flip({"image": torch.zeros(3, 4, 6), "mask": torch.zeros(1, 4, 5)})


@DATASET_REGISTRY.register("SmallImages")
class SmallImages(Noise):
    """Ten noisy images, as a config names them."""

    def __init__(self, data_dir):
        super().__init__()


def load(**keys):
    """Return the loader of a set for validation."""
    return build_loader(Config(batch_size=6, dataset=DatasetConfig(val={"type": "SmallImages", **keys})), "val")


class TestKeys(unittest.TestCase):
    """``transforms`` and ``batch_transforms`` in a section of ``dataset``."""

    def test_transforms(self):
        section = {"type": "Resize", "target_size": 4}
        self.assertEqual(next(iter(load(transforms=[section])))["image"].shape, (6, 3, 4, 4))
        loader = load(batch_transforms=[section])
        batch = next(iter(loader))
        self.assertEqual(batch["image"].shape, (6, 3, 8, 8))
        self.assertEqual(loader.transform_batch(batch)["image"].shape, (6, 3, 4, 4))

    def test_mistakes(self):
        for keys, message in (
            ({"transforms": {"type": "RandomFlip"}}, "dataset.val.transforms: expected a list"),
            ({"batch_transforms": [{"type": "No"}]}, "dataset.val.batch_transforms.0.type: unknown transform 'No'"),
        ):
            with self.assertRaisesRegex(UserError, message):
                load(**keys)
