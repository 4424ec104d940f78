"""TensorBoard and metrics.jsonl."""

import json
import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.monitor import Monitor, NullMonitor


class TestMonitor(unittest.TestCase):
    """What is written is read by TensorBoard's own reader and as JSON."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name) / "experiment"
        self.monitor = Monitor(self.folder)

    def read(self):
        self.monitor.close()
        return EventAccumulator(str(self.folder / "event")).Reload()

    def test_scalars(self):
        for step in (1, 2):
            self.monitor.add_scalars("train", {"loss": step / 4, "learning_rate": 0.1}, epoch=0, step=step)
        events = self.read()
        self.assertEqual([(e.step, e.value) for e in events.Scalars("train/loss")], [(1, 0.25), (2, 0.5)])
        self.assertEqual(set(events.Tags()["scalars"]), {"train/loss", "train/learning_rate"})
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(
            [(line["split"], line["step"], line["loss"]) for line in lines], [("train", 1, 0.25), ("train", 2, 0.5)]
        )

    def test_a_value_that_is_not_finite_is_null(self):
        self.monitor.add_scalars("train", {"loss": float("nan"), "other": float("inf")}, 0, 1)
        self.read()
        line = json.loads((self.folder / "metrics.jsonl").read_text())
        self.assertEqual((line["loss"], line["other"]), (None, None))

    def test_goes_on_in_the_same_file(self):
        self.monitor.add_scalars("train", {"loss": 1.0}, 0, 1)
        self.monitor.close()
        self.monitor = Monitor(self.folder)
        self.monitor.add_scalars("train", {"loss": 2.0}, 0, 2)
        self.assertEqual([e.value for e in self.read().Scalars("train/loss")], [1.0, 2.0])
        self.assertEqual(len((self.folder / "metrics.jsonl").read_text().splitlines()), 2)

    def test_pictures(self):
        image = torch.rand(3, 5, 7)
        self.monitor.add_image("val", "guesses", image, 3, Path("guesses") / "a.png")
        self.monitor.add_image("val", "grey", image[:1], 3, Path("grey.png"))
        self.assertEqual(set(self.read().Tags()["images"]), {"val/guesses", "val/grey"})
        pixels = np.asarray(Image.open(self.folder / "progress" / "val" / "guesses" / "a.png"))
        np.testing.assert_array_equal(pixels, (image * 255).round().byte().permute(1, 2, 0).numpy())
        self.assertEqual(Image.open(self.folder / "progress" / "val" / "grey.png").size, (7, 5))

    def test_the_null_twin_has_the_same_methods(self):
        public = {name for name in vars(Monitor) if not name.startswith("_")}
        self.assertEqual(public, {name for name in vars(NullMonitor) if not name.startswith("_")})
