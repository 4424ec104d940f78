"""The example of photographs: its data set, and its commands on a small folder of one's own."""

import csv
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

from common.config.errors import UserError
from common.images import fabrics
from common.images.fabrics import draw_photo
from tests import needs_room, slow
from custom.datasets import photos_dataset
from custom.datasets.photos_dataset import PhotosDataset

PROJECT = Path(__file__).parents[2]
CONFIGS = {
    "images.yaml": ("configs/images.yaml", "configs/eval_images.yaml"),
    "default.yaml": ("configs/default.yaml", "configs/eval.yaml"),  # where it is the only example
}
TRAIN, EVAL = next(files for name, files in CONFIGS.items() if (PROJECT / "configs" / name).exists())
SMALL = ["--gpu_ids", "-1", "--worker", "0", "--progress.epoch", "1", "--dataset.train.size", "32", "--batch_size", "8"]


class ImagesTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_command(self, *words, expect=0) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run([sys.executable, *words], cwd=PROJECT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done.stderr

    def draw(self, folder: Path, classes: tuple[str, ...], count: int) -> None:
        for name, pattern in zip(classes, fabrics.PATTERNS, strict=False):
            (folder / name).mkdir(parents=True)
            for number in range(count):
                draw_photo(pattern, number).resize((96, 72)).save(folder / name / f"IMG {number}.jpg")

    def train(self, *flags, name="mine", expect=0) -> str:
        flags = [*SMALL, "--dir.expr_dir", str(self.folder), "--name", name, *flags]
        return self.run_command("train.py", "--config", TRAIN, *flags, expect=expect)


class TestTheSet(ImagesTest):
    def test_only_its_own_folder_is_drawn(self):
        drawn = self.folder / "fabrics"
        with mock.patch.object(photos_dataset, "DRAWN", drawn), mock.patch.object(fabrics, "PHOTOGRAPHS", 4):
            dataset = PhotosDataset(str(drawn), "all", size=8)
            self.assertEqual((len(dataset), dataset.classes), (20, sorted(fabrics.PATTERNS)))
            self.assertEqual(dataset[0]["image"].shape, (3, 8, 8))
            with self.assertRaisesRegex(UserError, "no such folder, did you mean 'fabrics'"):
                PhotosDataset(str(self.folder / "fabric"))


class TestCommands(ImagesTest):
    def test_a_folder_of_ones_own(self):
        photos = self.folder / "photos"
        self.draw(photos, ("Käse", "猫", "zebra"), 10)
        (photos / "zebra" / "IMG 3.jpg").write_bytes((photos / "zebra" / "IMG 2.jpg").read_bytes()[:500])
        (photos / "notes.txt").write_text("text")
        (photos / "empty").mkdir()
        flags = ["--dir.data_dir", str(photos), "--progress.local_progress", "true", "--progress.max_samples_val", "9"]
        flags += ["--progress.save_progress", "true", "--progress.iter_save_progress", "2"]
        flags += ["--dataset.train.shares", "[0.5, 0.3, 0.2]", "--dataset.val.batch_size", "4"]
        said = self.train(*flags)
        for part in ("notes.txt", "left out as folders without pictures: empty"):
            self.assertEqual(sum(part in line for line in said.splitlines()), 1, said)
        checkpoint = self.folder / "mine/checkpoints/final.pt"
        state = torch.load(checkpoint, weights_only=True)
        self.assertEqual(state["classes"], ["Käse", "zebra", "猫"])
        self.assertEqual(state["model"]["fc.weight"].shape[0], 3)
        files = sorted(path.name for path in (self.folder / "mine/progress/train/guesses").iterdir())
        self.assertEqual(files, ["epoch000000_iter000000.png", "epoch000000_iter000001.png"])
        (page,) = (self.folder / "mine/progress/val/guesses").iterdir()
        self.assertEqual(Image.open(page).size, (9 * 114 + 12, 132 + 12))  # of three batches

        others = self.folder / "others"
        self.draw(others, ("zebra", "猫", "unheard of"), 3)
        results = self.folder / "results"
        flags = ["--dir.data_dir", str(others), "--dataset.eval.split", "all", "--dir.eval_dir", str(results)]
        flags += ["--gpu_ids", "-1", "--worker", "0", "--model_pt", str(checkpoint), "--progress.sample_save_eval", "4"]
        self.assertIn(
            "left out as folders of other classes: unheard of",
            self.run_command("evaluate.py", "--config", EVAL, *flags),
        )
        with (results / "samples.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([row["label"] for row in rows], ["zebra"] * 3 + ["猫"] * 3)
        self.assertLessEqual({row["guess"] for row in rows}, {"Käse", "zebra", "猫"})
        self.assertTrue(rows[4]["file"].endswith("猫/IMG 1.jpg"))
        names = sorted(path.name for path in (results / "samples").iterdir())
        self.assertEqual(names, ["000000_IMG_0.png", "000004_IMG_1.png"])
        right = sum(row["label"] == row["guess"] for row in rows) / 6
        self.assertAlmostEqual(json.loads((results / "summary.json").read_text())["accuracy"], right)

    @slow
    @needs_room("measures")
    def test_the_confusion_matrix_has_the_names_even_of_one_class(self):
        photos = self.folder / "photos"
        self.draw(photos, ("cat",), 10)
        self.assertIn("one class only, cat: there is nothing to tell apart", self.train("--dir.data_dir", str(photos)))
        flags = ["--gpu_ids", "-1", "--dir.data_dir", str(photos), "--dir.eval_dir", str(self.folder / "results")]
        self.run_command("evaluate.py", "--config", EVAL, "--model_pt", str(self.folder / "mine"), *flags)
        self.assertEqual(
            json.loads((self.folder / "results/summary.json").read_text()), {"accuracy": 1, "confusion": 1}
        )
        self.assertTrue((self.folder / "results/confusion.png").exists())

    @slow
    def test_other_classes_are_another_run(self):
        photos = self.folder / "photos"
        self.draw(photos, ("cat", "dog"), 8)
        self.train("--dir.data_dir", str(photos))
        (photos / "dog").rename(photos / "cow")
        flags = ["--dir.data_dir", str(photos), "--resume", str(self.folder / "mine"), "--progress.epoch", "2"]
        said = self.train(*flags, expect=2)
        self.assertRegex(said, r'dataset.train.classes was \["cat", "dog"\], is \["cat", "cow"\]')

    @slow
    def test_it_learns_the_fabrics(self):
        flags = ["--gpu_ids", "-1", "--dir.expr_dir", str(self.folder), "--dir.data_dir"]
        fabrics.draw_fabrics(self.folder / "fabrics")
        self.run_command("train.py", "--config", TRAIN, *flags, str(self.folder / "fabrics"), "--name", "whole")
        lines = [json.loads(line) for line in (self.folder / "whole/metrics.jsonl").read_text().splitlines()]
        self.assertGreaterEqual(max(line["accuracy"] for line in lines if line["split"] == "val"), 0.95)
