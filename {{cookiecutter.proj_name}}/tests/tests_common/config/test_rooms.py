"""Rooms: found, offered by name, and told in one line where they are missing."""

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from common.config.errors import UserError
from common.config.registry import (
    COLLATE_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    OFFERED,
    TRANSFORM_REGISTRY,
    Registry,
    find_room,
    has_room,
    open_room,
)

COMMON = Path(__file__).resolve().parents[3] / "common"
REGISTRIES = {
    "collate function": COLLATE_REGISTRY,
    "data set": DATASET_REGISTRY,
    "model": MODEL_REGISTRY,
    "loss": LOSS_REGISTRY,
    "metric": METRIC_REGISTRY,
    "transform": TRANSFORM_REGISTRY,
}


class TestRooms(unittest.TestCase):
    def test_what_is_there(self):
        self.assertEqual(open_room("config.errors", "x").UserError, UserError)
        self.assertIs(find_room("config"), sys.modules["common.config"])
        self.assertIsNone(find_room("cellar"))
        self.assertIsNone(find_room("cellar.wine"))

    def test_a_missing_room_in_one_line(self):
        with self.assertRaises(UserError) as caught:
            open_room("cellar.wine", "loss.ce.type")
        message = str(caught.exception)
        self.assertTrue(
            message.startswith("loss.ce.type: needs the room common/cellar, which this project was rendered")
        )
        self.assertIn("to add it, copy that folder from the template", message)
        self.assertNotIn("\n", message)

    def test_a_fault_inside_a_room_is_no_missing_room(self):
        for wanted in (find_room, lambda name: open_room(name, "key")):
            with self.assertRaises(ModuleNotFoundError):
                wanted("config.no_such_module")

    def test_every_offered_name_is_registered_by_its_module(self):
        for kind, names in OFFERED.items():
            for name, module in names.items():
                if has_room(module):
                    with self.subTest(name):
                        self.assertEqual(REGISTRIES[kind].get(name).__module__, f"common.{module}")
                        self.assertIn(name, REGISTRIES[kind].names())

    def test_every_registered_name_is_offered(self):
        for path in {*COMMON.glob("*/*.py")} - {COMMON / "config" / "registry.py"}:
            registers = any(
                f"@{kind.upper().replace(' ', '')}_REGISTRY.register" in path.read_text() for kind in OFFERED
            )
            if registers:
                module = f"{path.parent.name}.{path.stem}"
                self.assertIn(module, [found for names in OFFERED.values() for found in names.values()])

    def test_offers_of_missing_rooms(self):
        registry = Registry("wine", offered={"Merlot": "cellar.merlot", "Shown": "config.errors"})
        self.assertEqual(registry.names(), ["Shown"])
        with self.assertRaisesRegex(UserError, r"^red\.type: Merlot: needs the room common/cellar"):
            registry.build({"type": "Merlot"}, "red")
        registry.register("Merlot")(dict)
        self.assertIs(registry.get("Merlot"), dict)

    def test_a_name_that_a_room_offers_is_taken(self):
        registry = Registry("wine", offered={"Shown": "config.errors"})
        with self.assertRaisesRegex(ValueError, "registered as wine 'Shown': common.config.errors and"):
            registry.register("Shown")(dict)


class TestWithoutRooms(unittest.TestCase):
    def test_the_core_works_and_names_what_is_missing(self):
        script = """
import torch
from common.config.build import build_loader, build_loss, build_metric, build_model
from common.config.errors import UserError
from common.config.registry import DATASET_REGISTRY, MODEL_REGISTRY
from common.config.schema import Config, DatasetConfig
from common.data import ArrayDataset

@DATASET_REGISTRY.register()
class Numbers(ArrayDataset):
    def __init__(self, data_dir):
        super().__init__(data_dir, x=torch.arange(4))

def loader(**section):
    return build_loader(Config(dataset=DatasetConfig(train={"type": "Numbers", **section})), "train")

MODEL_REGISTRY.register()(torch.nn.Linear)
print(build_model({"type": "Linear", "in_features": 2, "out_features": 1}).weight.shape, len(loader()))
for build, section in ((build_model, {"type": "MLP"}), (build_loss, {"dice": {"type": "DiceLoss"}}),
        (build_metric, {"iou": {"type": "IoU"}}), (build_model, {"type": "Linaer"}),
        (lambda section: loader(**section), {"transforms": [{"type": "Resize"}]})):
    try:
        build(section)
    except UserError as error:
        print(error)
"""
        with tempfile.TemporaryDirectory() as folder:
            rooms = shutil.ignore_patterns("vision", "measures", "diagnose", "sharding", "tools", "__pycache__")
            shutil.copytree(COMMON, Path(folder, "common"), ignore=rooms)
            Path(folder, "common", "vision", "__pycache__").mkdir(parents=True)  # what git leaves of a removed folder
            done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
        self.assertEqual(done.stderr, "")
        lines = done.stdout.splitlines()
        self.assertEqual(lines[0], "torch.Size([1, 2]) 1")
        beginnings = (
            "model.type: MLP: needs the room common/vision, ",
            "loss.dice.type: DiceLoss: needs the room common/measures, ",
            "metric.iou.type: IoU: needs the room common/measures, ",
            "model.type: unknown model 'Linaer', did you mean 'Linear'? Known: Linear",
            "dataset.train.transforms: needs the room common/vision, ",
        )
        self.assertEqual(len(lines), 1 + len(beginnings))
        for line, beginning in zip(lines[1:], beginnings, strict=True):
            self.assertTrue(line.startswith(beginning), line)

    def test_a_plain_model_imports_no_room(self):
        script = """
import sys, torch
from common.config.build import build_loss, build_model
from common.config.registry import MODEL_REGISTRY
MODEL_REGISTRY.register()(torch.nn.Linear)
build_model({"type": "Linear", "in_features": 2, "out_features": 1})
build_loss({"l1": {"type": "L1Loss", "input_name": ["y", "t"]}})
rooms = tuple(f"common.{room}" for room in ("vision", "measures", "diagnose", "sharding", "tools"))
old_paths = ("common.tools", "common.tools.moved")
print([name for name in sys.modules if name.startswith(rooms) and name not in old_paths])
"""
        done = subprocess.run([sys.executable, "-c", script], cwd=COMMON.parent, capture_output=True, text=True)
        self.assertEqual((done.stdout, done.stderr), ("[]\n", ""))


if __name__ == "__main__":
    unittest.main()
