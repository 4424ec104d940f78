"""Some samples of a set, and loaders built by their keys."""

import unittest
from pathlib import Path

import torch

from common.config.build import build_loader
from common.config.errors import UserError
from common.config.registry import DATASET_REGISTRY
from common.config.schema import Config, DatasetConfig
from common.data import ArrayDataset, BaseDataset
from common.data.dataset import ALL_GENERATORS, View, draw_rows, generators_of


@DATASET_REGISTRY.register("PathsForViews")
class Paths(BaseDataset):
    """Twenty samples with a file each."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return {"image": torch.full((1, 2, 2), index / 20), "number": index}

    def path(self, index):
        return Path(f"{index}.png")


class Flip:
    """Flips every image, and says that it would draw from torch's generator alone."""

    random_generators = ("torch",)

    def __call__(self, sample):
        return {**sample, "image": sample["image"].flip(-1)}

    on_batch = __call__


def load(**keys):
    """Return the loader of a set for validation."""
    return build_loader(Config(batch_size=6, dataset=DatasetConfig(val={"type": "PathsForViews", **keys})), "val")


class TestView(unittest.TestCase):
    def test_rows_and_paths(self):
        view = View(Paths("data"), [3, 8])
        self.assertEqual((len(view), view[1]["number"], view.path(1)), (2, 8, Path("8.png")))

    def test_batches_stay_whole(self):
        arrays = ArrayDataset("data", image=torch.arange(12.0).reshape(6, 1, 1, 2) / 12)
        batch = View(arrays, [1, 2, 5], Flip()).__getitems__([0, 2])
        self.assertTrue(batch["image"].equal(arrays.tensors["image"][[1, 5]].flip(-1)))
        self.assertFalse(hasattr(View(Paths("data")), "__getitems__"))

    def test_what_needs_a_seed(self):
        arrays = ArrayDataset("data", image=torch.zeros(6, 1, 1, 2))
        flip = Flip()
        cases = (
            (arrays, ()),
            (View(arrays, [1]), ()),
            (View(arrays, None, flip), ("torch",)),
            (Paths("data"), ALL_GENERATORS),
            (View(Paths("data"), None, flip), ALL_GENERATORS),
            (View(View(arrays, None, flip), [1]), ("torch",)),
            (View(arrays, None, lambda sample: sample), ALL_GENERATORS),
        )
        for dataset, expected in cases:
            self.assertEqual(generators_of(dataset), expected)

    def test_a_draw_follows_from_the_seed(self):
        self.assertEqual(draw_rows(100, 0.1, 5), draw_rows(100, 10, 5))
        self.assertNotEqual(draw_rows(100, 0.1, 5), draw_rows(100, 0.1, 6))
        rows = draw_rows(100, 30, 0)
        self.assertEqual((len(set(rows)), rows), (30, sorted(rows)))
        self.assertEqual(draw_rows(7, 30, 0), list(range(7)))


class TestKeys(unittest.TestCase):
    """What a section of ``dataset`` takes beside its class's arguments."""

    def test_sample_rate(self):
        for rate, count in ((0.25, 5), (3, 3), (1.0, 20)):
            loader = load(sample_rate=rate)
            numbers = torch.cat([batch["number"] for batch in loader]).tolist()
            self.assertEqual(len(numbers), count)
            self.assertEqual(loader.dataset.dataset.path(0), Path(f"{numbers[0]}.png"))

    def test_no_transforms(self):
        self.assertIsNone(load(transforms=None, batch_transforms=[]).transform_batch)

    def test_mistakes(self):
        share = "expected a share above 0.0 up to 1.0, or a number of samples from 1, found"
        for keys, message in (
            ({"sample_rate": 0.01}, "dataset.val.sample_rate: 0.01 of 20 samples is not one"),
            ({"sample_rate": 0}, f"dataset.val.sample_rate: {share} 0"),
            ({"sample_rate": 1.5}, f"dataset.val.sample_rate: {share} 1.5"),
            ({"sample_rate": "all"}, f"dataset.val.sample_rate: {share} 'all'"),
            ({"drop_last": 1}, "dataset.val.drop_last: expected true or false, found 1"),
            ({"worker": -1}, "dataset.val.worker: expected a whole number from 0 to 1000, found -1"),
        ):
            with self.assertRaisesRegex(UserError, message):
                load(**keys)
