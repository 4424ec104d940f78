"""TensorBoard and metrics.jsonl."""

import json
import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.log.curves import Monitor, NullMonitor


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

    def test_a_figure(self):
        figure = Figure(figsize=(2, 1), facecolor=(1, 0, 0))
        self.monitor.add_figure("val", "curve", figure, 3)
        (event,) = self.read().Images("val/curve")
        self.assertEqual((event.step, event.width, event.height), (3, 200, 100))

    def test_goes_on_in_the_same_file(self):
        self.monitor.add_scalars("train", {"loss": 1.0}, 0, 1)
        state = self.monitor.state_dict()
        for value in (7.0, 8.0):  # after the save, and so lost with what else happened then
            self.monitor.add_scalars("train", {"loss": value}, 0, 1)
        self.monitor.close()
        self.monitor = Monitor(self.folder)
        self.monitor.load_state_dict(state)
        self.assertEqual(self.monitor.state_dict(), state)
        self.assertEqual(len(self.losses()), 3)  # nothing is cut before there is something to record
        self.monitor.add_scalars("train", {"loss": 2.0}, 0, 2)
        self.assertEqual([e.value for e in self.read().Scalars("train/loss")], [1.0, 2.0])
        self.assertEqual(self.losses(), [1.0, 2.0])

    def losses(self):
        return [json.loads(line)["loss"] for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def test_a_run_that_begins_anew_empties_the_files(self):
        self.monitor.add_scalars("train", {"loss": 1.0}, 0, 1)
        self.monitor.close()
        self.monitor = Monitor(self.folder)
        self.monitor.add_scalars("train", {"loss": 2.0}, 0, 1)
        self.assertEqual([e.value for e in self.read().Scalars("train/loss")], [2.0])
        self.assertEqual(self.losses(), [2.0])

    def test_a_running_tensorboard_forgets_what_was_cut(self):
        self.monitor.add_scalars("train", {"loss": 1.0}, 0, 1)
        state = self.monitor.state_dict()
        self.monitor.add_scalars("train", {"loss": 7.0}, 0, 2)
        reader = self.read()
        self.monitor = Monitor(self.folder)
        self.monitor.load_state_dict(state)
        self.monitor.add_scalars("train", {"loss": 2.0}, 0, 2)
        self.monitor.close()
        self.assertEqual([e.value for e in reader.Reload().Scalars("train/loss")], [1.0, 2.0])

    def test_a_full_disk_delays_what_is_recorded(self):
        self.monitor.add_scalars("train", {"loss": 1.0}, 0, 1)
        file = self.monitor._files["metrics.jsonl"]

        class Full:
            room = 5

            def write(self, data):
                if not self.room:
                    raise OSError(28, "No space left on device")
                written, self.room = file_write(data[: self.room]), 0
                return written

            def tell(self):
                return real.tell()

        real, file_write = file._file, file._file.write
        file._file = Full()
        for step in (2, 3):
            self.monitor.add_scalars("train", {"loss": step}, 0, step)
        file._file = real
        self.monitor.add_scalars("train", {"loss": 4}, 0, 4)
        self.assertEqual(self.losses(), [1, 2, 3, 4])
        self.assertEqual(file.size, (self.folder / "metrics.jsonl").stat().st_size)

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
