"""The example of segmentation: its loss, its metric, and its commands on the drawn shapes."""

import csv
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional

from common.measures.dice_loss import DiceLoss
from tests import slow
from custom.losses.bce_dice_loss import BCEDice
from custom.metrics.pixel_accuracy_metric import PixelAccuracy

PROJECT = Path(__file__).parents[2]
CONFIGS = {
    "segmentation.yaml": ("configs/segmentation.yaml", "configs/eval_segmentation.yaml"),
    "default.yaml": ("configs/default.yaml", "configs/eval.yaml"),  # where it is the only example
}
TRAIN, EVAL = next(files for name, files in CONFIGS.items() if (PROJECT / "configs" / name).exists())
SMALL = ["--model.width", "4", "--model.depth", "2", "--dataset.train.size", "32", "--dataset.val.size", "32"]
SMALL += ["--dataset.eval.size", "32", "--dataset.train.sample_rate", "0.1", "--dataset.val.sample_rate", "30"]


class TestParts(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.logits, self.mask = torch.randn(3, 1, 4, 5).double(), torch.rand(3, 1, 4, 5).round().double()

    def loss(self, logits, mask, share=0.3):
        return BCEDice(share)({"logits": logits}, {"mask": mask})

    def test_loss(self):
        for mask in (self.mask, torch.zeros_like(self.mask), torch.ones_like(self.mask)):
            bce = functional.binary_cross_entropy_with_logits(self.logits, mask)
            expected = 0.7 * bce + 0.3 * DiceLoss()(self.logits, mask)
            self.assertAlmostEqual(self.loss(self.logits, mask).item(), expected.item(), places=12)

    def test_gradient(self):
        logits = self.logits[:, :, :2, :2].clone().requires_grad_()
        torch.autograd.gradcheck(lambda x: self.loss(x, self.mask[:, :, :2, :2]), logits)

    def test_pixel_accuracy(self):
        metric = PixelAccuracy()
        for part in range(3):
            metric.update({"logits": self.logits[part : part + 1]}, {"mask": self.mask[part : part + 1]})
        expected = ((self.logits > 0) == (self.mask == 1)).double().mean().item()
        self.assertAlmostEqual(metric.compute(), expected, places=6)


class CommandsTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_command(self, *args):
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run([sys.executable, *args], cwd=PROJECT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def train(self, *flags):
        flags = ["--gpu_ids", "-1", "--dir.expr_dir", str(self.folder), "--name", "shapes", *flags]
        self.run_command("train.py", "--config", TRAIN, *flags)
        lines = (self.folder / "shapes" / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["split"] == "val"]


class TestCommands(CommandsTest):
    @slow
    def test_curves_tables_and_pictures(self):
        flags = ["--progress.local_progress", "true", "--progress.save_progress", "true"]
        lines = self.train(*SMALL, "--progress.epoch", "1", *flags)
        self.assertLessEqual({"loss", "bce_dice", "iou", "dice", "pixel_accuracy"}, set(lines[-1]))
        for split in ("train", "val"):
            (picture,) = (self.folder / "shapes" / "progress" / split / "triplets").glob("*.png")
            self.assertEqual(Image.open(picture).size, (8 * 66, 3 * 66))
        results = self.folder / "results"
        flags = ["--gpu_ids", "-1", "--dir.eval_dir", str(results), "--model_pt", str(self.folder / "shapes")]
        flags += [*SMALL[:4], *SMALL[8:10], "--dataset.eval.sample_rate", "30", "--progress.sample_save_eval", "10"]
        self.run_command("evaluate.py", "--config", EVAL, *flags)
        with (results / "samples.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        summary = json.loads((results / "summary.json").read_text())
        self.assertEqual(len(rows), 30)
        self.assertAlmostEqual(sum(float(row["iou"]) for row in rows) / 30, summary["iou"], places=6)
        pictures = sorted((results / "samples").iterdir())
        self.assertEqual([picture.name for picture in pictures], ["000000.png", "000010.png", "000020.png"])
        self.assertEqual(Image.open(pictures[0]).size, (96, 32))  # image, truth, prediction
        self.assertGreater(Image.open(results / "predictions.png").width, 500)

    @slow
    @slow
    def test_finds_the_shapes(self):
        self.assertGreaterEqual(max(line["iou"] for line in self.train()), 0.9)
