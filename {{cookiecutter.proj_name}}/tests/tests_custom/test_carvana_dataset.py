"""Carvana, on small files in its layout."""

import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.config.build import build_loader
from common.config.errors import RunError, UserError
from common.config.schema import Config, DatasetConfig, DirConfig
from custom.datasets.carvana_dataset import CarvanaDataset


class TestCarvana(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        self.images, self.masks = self.root / "carvana" / "train", self.root / "carvana" / "train_masks"
        for folder in (self.images, self.masks):
            folder.mkdir(parents=True)
        for car in range(20):
            for angle in (1, 2, 3):
                pixels = np.zeros((12, 18), np.uint8)
                pixels[2 : 5 + angle, 3:9] = 255
                Image.fromarray(np.stack([pixels] * 3, 2)).save(self.images / f"{car:03x}_{angle:02}.jpg", quality=95)
                Image.fromarray(pixels).convert("P").save(self.masks / f"{car:03x}_{angle:02}_mask.gif")

    def load(self, split="train", **keys):
        return CarvanaDataset(str(self.root), split, **keys)

    def test_splits_share_no_car(self):
        sets = {split: self.load(split) for split in ("train", "val", "eval")}
        self.assertEqual([len(dataset) for dataset in sets.values()], [42, 9, 9])
        cars = [{dataset.path(i).name.split("_")[0] for i in range(len(dataset))} for dataset in sets.values()]
        self.assertFalse(cars[0] & cars[1] or cars[0] & cars[2] or cars[1] & cars[2])
        self.assertNotEqual(self.load(seed=1).images, sets["train"].images)
        self.assertEqual(self.load().images, sets["train"].images)

    def test_samples(self):
        dataset = self.load()
        for index in (0, 41):
            sample = dataset[index]
            self.assertEqual((sample["image"].shape, sample["image"].dtype), ((3, 12, 18), torch.uint8))
            self.assertEqual((sample["mask"].shape, sample["mask"].dtype), ((1, 12, 18), torch.float32))
            self.assertTrue((sample["image"][0] > 127).equal(sample["mask"][0] == 1))
            self.assertEqual(sample["mask"].unique().tolist(), [0, 1])

    def test_a_missing_mask(self):
        (self.masks / "003_02_mask.gif").unlink()
        with self.assertRaisesRegex(UserError, r"003_02.jpg: its mask \S+003_02_mask.gif does not exist$"):
            self.load("val")
        (self.masks / "004_01_mask.gif").unlink()
        with self.assertRaisesRegex(UserError, "does not exist, nor do 1 others"):
            self.load("val")

    def test_no_folders_and_no_photographs(self):
        with self.assertRaisesRegex(UserError, r"CarvanaDataset: \S+none/carvana/train not found; --dir.data_dir"):
            CarvanaDataset(str(self.root / "none"))
        config = Config(dir=DirConfig(data_dir=str(self.root)), dataset=DatasetConfig(train={"type": "CarvanaDataset"}))
        for path in self.images.iterdir():
            path.unlink()
        with self.assertRaisesRegex(UserError, "dataset.train: CarvanaDataset found no samples in"):
            build_loader(config, "train")

    def read_all(self, **keys):
        section = {"type": "CarvanaDataset", "shares": [1.0, 0.0, 0.0], **keys}
        config = Config(dir=DirConfig(data_dir=str(self.root)), dataset=DatasetConfig(train=section))
        return list(build_loader(config, "train"))

    def test_an_unreadable_photograph(self):
        (self.images / "005_01.jpg").write_bytes(b"no picture")
        with self.assertRaisesRegex(RunError, r"dataset.train: sample 15 \(\S+005_01.jpg\) cannot be read: Unident"):
            self.read_all()

    def test_an_unreadable_mask(self):
        (self.masks / "005_01_mask.gif").write_bytes(b"no picture")
        with self.assertRaisesRegex(RunError, r"sample 15 \(\S+005_01.jpg\) cannot be read: .*005_01_mask.gif"):
            self.read_all()

    def test_sizes_that_disagree(self):
        Image.new("L", (18, 11)).save(self.masks / "005_01_mask.gif")
        with self.assertRaisesRegex(RunError, r"its mask \S+005_01_mask.gif has 11 x 18 pixels, the image 12 x 18"):
            self.read_all()

    def test_transforms(self):
        sections = [{"type": "ToTensor"}, {"type": "Resize", "target_size": [24, 24], "keep_ratio": True}]
        batch = self.read_all(transforms=sections, sample_rate=0.5)[0]
        self.assertEqual((batch["image"].shape, batch["mask"].shape), ((30, 3, 24, 24), (30, 1, 24, 24)))

    def test_mistakes(self):
        with self.assertRaisesRegex(UserError, "split must be one of train, val, eval, found 'test'"):
            self.load("test")
        with self.assertRaisesRegex(ValueError, "shares must not be negative"):
            self.load(shares=(0.9, 0.9, 0.0))
