"""Class names reach the sections that leave them open, from the data or from a checkpoint."""

import json
import tempfile
import unittest
from pathlib import Path

import torch
from PIL import Image

from common.config.build import build_loader, build_model
from common.config.schema import Config, DatasetConfig, DirConfig
from common.images.classes import fit_to_checkpoint, fit_to_data
from common.state.experiment import classes_of
from tests import needs_room

TRAIN = {"type": "ImageFolder", "split": "all", "size": 8, "seed": 3}


class TestFilling(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        for name in ("cat", "dog", "emu"):
            (self.root / name).mkdir()
            Image.new("RGB", (9, 9)).save(self.root / name / "a.png")

    def config(self, **keys) -> Config:
        sets = DatasetConfig(train=TRAIN, val={"type": "ImageFolder", "split": "val", "seed": 4}, eval=None)
        return Config(dir=DirConfig(data_dir=str(self.root)), dataset=sets, **keys)

    def test_from_the_data(self):
        config = self.config(model={"several": {"type": "ResNet"}}, metric={"odd": {"type": "NoMetric"}, "flat": 3})
        loader = build_loader(config, "train")
        self.assertEqual(classes_of(loader), ["cat", "dog", "emu"])
        filled = fit_to_data(config, loader)
        self.assertEqual(filled.dataset.train, TRAIN | {"classes": ["cat", "dog", "emu"]})
        own = {"classes": ["cat", "dog", "emu"], "size": 8, "seed": 4}
        self.assertEqual(filled.dataset.val, {"type": "ImageFolder", "split": "val", **own})
        self.assertEqual((filled.model, filled.metric), (config.model, config.metric))  # the builders will answer

    @needs_room("vision")
    def test_a_model(self):
        config = self.config(model={"type": "ResNet"})
        config = fit_to_data(config, build_loader(config, "train"))
        self.assertEqual(build_model(config.model)(torch.zeros(2, 3, 32, 32)).shape, (2, 3))
        config = self.config(model={"type": "ResNet", "num_classes": 5})
        self.assertEqual(fit_to_data(config, build_loader(config, "train")).model, config.model)

    @needs_room("measures")
    def test_a_metric(self):
        config = self.config(metric={"c": {"type": "ConfusionMatrix"}, "f": {"type": "F1"}})
        config = fit_to_data(config, build_loader(config, "train"))
        self.assertEqual(config.metric["c"]["names"], ["cat", "dog", "emu"])
        self.assertEqual(config.metric["f"], {"type": "F1", "num_classes": 3})

    def test_from_a_checkpoint(self):
        settings = {"dataset.train.classes": ["emu", "cat"], "dataset.train.group": "(x)", "dataset.train.type": "T"}
        saved = {"continuity": {name: json.dumps(value) for name, value in settings.items()}}
        for found, expected in ((saved, {"classes": ["emu", "cat"], "group": "(x)"}), ({"model": {}}, {})):
            torch.save(found, self.root / "a.pt")
            filled = fit_to_checkpoint(self.config(), self.root / "a.pt").dataset.val
            self.assertEqual(filled, {"type": "ImageFolder", "split": "val", "seed": 4} | expected)

    def test_data_without_names(self):
        loader = torch.utils.data.DataLoader([{"image": 0}])
        config = self.config()
        self.assertIs(fit_to_data(config, loader), config)
