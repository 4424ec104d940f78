"""TensorBoard and metrics.jsonl."""

import io
import json
import subprocess
import sys
import tempfile
import unittest
import wave
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from loguru import logger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.log.curves import Curves


@contextmanager
def logged():
    """Collect what is logged."""
    said = []
    number = logger.add(said.append, format="{message}")
    try:
        yield said
    finally:
        logger.remove(number)


class TestCurves(unittest.TestCase):
    """What is written is read by TensorBoard's own reader and as JSON."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name) / "experiment"
        self.curves = Curves(self.folder)

    def read(self):
        self.curves.close()
        return EventAccumulator(str(self.folder / "event")).Reload()

    def test_scalars(self):
        for step in (1, 2):
            self.curves.add_scalars("train", {"loss": step / 4, "learning_rate": 0.1}, epoch=0, step=step)
        events = self.read()
        self.assertEqual([(e.step, e.value) for e in events.Scalars("train/loss")], [(1, 0.25), (2, 0.5)])
        self.assertEqual(set(events.Tags()["scalars"]), {"train/loss", "train/learning_rate"})
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(
            [(line["split"], line["step"], line["loss"]) for line in lines], [("train", 1, 0.25), ("train", 2, 0.5)]
        )

    def test_a_value_that_is_not_finite_is_null(self):
        self.curves.add_scalars("train", {"loss": float("nan"), "other": float("inf")}, 0, 1)
        self.read()
        line = json.loads((self.folder / "metrics.jsonl").read_text())
        self.assertEqual((line["loss"], line["other"]), (None, None))

    def test_a_figure(self):
        figure = Figure(figsize=(2, 1), facecolor=(1, 0, 0))
        self.curves.add("figure", "val/curve", figure, 3)
        (event,) = self.read().Images("val/curve")
        self.assertEqual((event.step, event.width, event.height), (3, 200, 100))

    def test_goes_on_in_the_same_file(self):
        self.curves.add_scalars("train", {"loss": 1.0}, 0, 1)
        state = self.curves.state_dict()
        for value in (7.0, 8.0):  # after the save, and so lost with what else happened then
            self.curves.add_scalars("train", {"loss": value}, 0, 1)
        self.curves.close()
        self.curves = Curves(self.folder)
        self.curves.load_state_dict(state)
        self.assertEqual(self.curves.state_dict(), state)
        self.assertEqual(len(self.losses()), 3)  # nothing is cut before there is something to record
        self.curves.add_scalars("train", {"loss": 2.0}, 0, 2)
        self.assertEqual([e.value for e in self.read().Scalars("train/loss")], [1.0, 2.0])
        self.assertEqual(self.losses(), [1.0, 2.0])

    def test_a_clock_that_is_set_back(self):
        for step, now in enumerate((4, 2, 3)):
            with mock.patch("time.time_ns", return_value=now * 10**18):
                state = self.curves.state_dict()
                self.curves.close()
                self.curves = Curves(self.folder)
                self.curves.load_state_dict(state)
                self.curves.add_scalars("train", {"loss": float(step)}, 0, step)
        self.assertEqual([e.value for e in self.read().Scalars("train/loss")], [0.0, 1.0, 2.0])

    def losses(self):
        return [json.loads(line)["loss"] for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def test_a_run_that_begins_anew_empties_the_files(self):
        self.curves.add_scalars("train", {"loss": 1.0}, 0, 1)
        self.curves.close()
        self.curves = Curves(self.folder)
        self.curves.add_scalars("train", {"loss": 2.0}, 0, 1)
        self.assertEqual([e.value for e in self.read().Scalars("train/loss")], [2.0])
        self.assertEqual(self.losses(), [2.0])

    def test_a_clock_that_was_set_back(self):
        self.curves.add_scalars("train", {"loss": 1.0}, 0, 1)
        state = self.curves.state_dict()
        self.curves.close()
        self.curves = Curves(self.folder)
        self.curves.load_state_dict(state)
        with mock.patch("time.time_ns", lambda: 10**18):
            self.curves.add_scalars("train", {"loss": 2.0}, 0, 2)
        self.assertEqual([(e.step, e.value) for e in self.read().Scalars("train/loss")], [(1, 1.0), (2, 2.0)])

    def test_what_others_wrote_stays(self):
        (self.folder / "event").mkdir(parents=True)
        names = ["events.out.tfevents.1700000000.my-host.4711.0", "events.out.tfevents.1.host.v2", "notes.txt"]
        for name in names:
            (self.folder / "event" / name).write_bytes(b"mine")
        for _ in range(2):  # a run that begins anew
            self.curves = Curves(self.folder)
            self.curves.add_scalars("train", {"loss": 1.0}, 0, 1)
            self.curves.close()
        self.assertEqual([(self.folder / "event" / name).read_bytes() for name in names], [b"mine"] * 3)
        self.assertEqual(len(list((self.folder / "event").iterdir())), 4)

    def test_a_running_tensorboard_forgets_what_was_cut(self):
        self.curves.add_scalars("train", {"loss": 1.0}, 0, 1)
        state = self.curves.state_dict()
        self.curves.add_scalars("train", {"loss": 7.0}, 0, 2)
        reader = self.read()
        self.curves = Curves(self.folder)
        self.curves.load_state_dict(state)
        self.curves.add_scalars("train", {"loss": 2.0}, 0, 2)
        self.curves.close()
        self.assertEqual([e.value for e in reader.Reload().Scalars("train/loss")], [1.0, 2.0])

    def test_a_full_disk_delays_what_is_recorded(self):
        self.curves.add_scalars("train", {"loss": 1.0}, 0, 1)
        file = self.curves._files["metrics.jsonl"]

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
            self.curves.add_scalars("train", {"loss": step}, 0, step)
        file._file = real
        self.curves.add_scalars("train", {"loss": 4}, 0, 4)
        self.assertEqual(self.losses(), [1, 2, 3, 4])
        self.assertEqual(file.size, (self.folder / "metrics.jsonl").stat().st_size)

    def test_pictures(self):
        image = torch.rand(3, 5, 7)
        self.curves.add("image", "val/guesses", image, 3, file=Path("val/guesses/a.png"))
        self.curves.add("image", "val/gray", image[:1], 3, file=Path("val/gray.png"))
        self.assertEqual(set(self.read().Tags()["images"]), {"val/guesses", "val/gray"})
        pixels = np.asarray(Image.open(self.folder / "progress" / "val" / "guesses" / "a.png"))
        np.testing.assert_array_equal(pixels, (image * 255).round().byte().permute(1, 2, 0).numpy())
        self.assertEqual(Image.open(self.folder / "progress" / "val" / "gray.png").size, (7, 5))

    def test_what_is_no_picture_is_skipped(self):
        for image in (torch.rand(4, 5, 7), torch.rand(5, 7), torch.rand(2, 3, 5, 7), np.zeros((3, 5, 7))):
            with self.subTest(image=image.shape), logged() as said:
                self.curves.add("image", "val/guesses", image, 3, file=Path("a.png"))
            self.assertRegex("".join(said), r"^val/guesses: cannot be recorded as image, expected a tensor \(3, H, W\)")
        self.assertEqual(list(self.folder.rglob("*.png")), [])

    def test_a_uint8_picture_is_recorded_as_it_is(self):
        image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
        self.curves.add("image", "val/plain", image, 3, file=Path("val/a.png"))
        (event,) = self.read().Images("val/plain")
        file = self.folder / "progress" / "val" / "a.png"
        self.assertEqual(file.read_bytes(), event.encoded_image_string)
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image.permute(1, 2, 0).numpy())

    def test_other_ranks_write_nothing(self):
        with mock.patch("common.run.distributed.get_rank", lambda: 1):
            self.curves.add_scalars("train", {"loss": 1.0}, 0, 1)
            self.curves.add("image", "val/guesses", torch.rand(3, 5, 7), 3, file=Path("a.png"))
            self.curves.load_state_dict(self.curves.state_dict())
            self.curves.close()
        self.assertFalse(self.folder.exists())

    def test_texts_histograms_and_sounds(self):
        self.curves.add("text", "train/note", "# one\ntwo", 3)
        for name, values in {
            "half": torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True),
            "list": [1, 1, 1, 1, 1, 1],
            "bools": np.ones(6, dtype=bool),
        }.items():
            self.curves.add("histogram", f"train/{name}", values, 3)
        self.curves.add("audio", "train/sound", torch.linspace(-2, 2, 5), 3, 100)
        events = self.read()
        (text,) = events.Tensors("train/note")
        self.assertEqual((text.step, text.tensor_proto.string_val), (3, [b"# one\ntwo"]))
        for name in ("half", "list", "bools"):
            (event,) = events.Histograms(f"train/{name}")
            self.assertEqual((event.histogram_value.num, event.histogram_value.sum), (6, 6), name)
        (sound,) = events.Audio("train/sound")
        self.assertEqual((sound.sample_rate, sound.length_frames), (100, 5))
        with wave.open(io.BytesIO(sound.encoded_audio_string)) as file:
            values = np.frombuffer(file.readframes(5), "<i2")
        self.assertEqual(values.tolist(), [-32767, -32767, 0, 32767, 32767])

    def test_what_cannot_be_recorded_is_skipped_with_the_reason(self):
        for kind, value, options in (
            ("histogram", [float("nan"), 1.0], ()),
            ("histogram", [], ()),
            ("histogram", None, ()),
            ("histogram", "abc", ()),
            ("figure", None, ()),
            ("audio", np.zeros((2, 9)), (100,)),
            ("audio", [], (100,)),
        ):
            with self.subTest(kind=kind, value=value), logged() as said:
                self.curves.add(kind, "train/a", value, 3, *options)
            self.assertRegex("".join(said), f"^train/a: cannot be recorded as {kind}, [^\n]+\n$")
        self.assertFalse(self.folder.exists())

    def test_a_block_is_recorded_whole_or_not_at_all(self):
        self.curves.add_scalars("train", {"loss": 1.0}, 0, 1)
        with self.assertRaises(ZeroDivisionError), self.curves.block():
            self.curves.add("text", "val/note", "lost", 1)
            raise ZeroDivisionError
        state = self.curves.state_dict()
        self.curves.close()
        self.curves = Curves(self.folder)
        self.curves.load_state_dict(state)
        with self.curves.block():
            for text in ("first", "second"):
                self.curves.add("text", "val/note", text, 1)
            self.curves.add("text", "val/other", "too", 1)
        self.assertNotEqual(self.curves.state_dict(), state)
        with self.curves.block():
            self.curves.add("text", "val/note", "next", 2)
        events = self.read()
        texts = [(event.step, event.tensor_proto.string_val[0]) for event in events.Tensors("val/note")]
        self.assertEqual(texts, [(1, b"first"), (2, b"next")])
        self.assertEqual(len(events.Tensors("val/other")), 1)
        self.assertEqual(len(events.Scalars("train/loss")), 1)

    def test_a_figure_of_pyplot_is_closed(self):
        from matplotlib import pyplot

        pyplot.switch_backend("agg")
        self.curves.add("figure", "train/curve", pyplot.figure(), 3)
        self.assertEqual(pyplot.get_fignums(), [])

    def test_pillow_and_matplotlib_are_loaded_for_pictures_only(self):
        code = "import sys, common.log.curves; sys.exit(any(name in sys.modules for name in ('PIL', 'matplotlib')))"
        self.assertEqual(subprocess.run([sys.executable, "-c", code]).returncode, 0)
