"""The smallest example: one linear layer."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch

from tests import slow
from custom.models.linear_model import LinearModel

PROJECT = Path(__file__).parents[2]
CONFIGS = {
    "minimal.yaml": ("configs/minimal.yaml", "configs/eval_minimal.yaml"),
    "default.yaml": ("configs/default.yaml", "configs/eval.yaml"),  # where it is the only example
}
TRAIN, EVAL = next(files for name, files in CONFIGS.items() if (PROJECT / "configs" / name).exists())


class TestMinimal(unittest.TestCase):
    def test_shape(self):
        model = LinearModel(in_features=12, num_classes=3)
        self.assertEqual(model(torch.rand(5, 3, 2, 2)).shape, (5, 3))
        self.assertEqual(sum(parameter.numel() for parameter in model.parameters()), 39)

    def run_command(self, *args):
        done = subprocess.run([sys.executable, *args, "--gpu_ids", "-1"], cwd=PROJECT, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    @slow
    def test_trains_and_evaluates(self):
        with tempfile.TemporaryDirectory() as folder:
            self.run_command("train.py", "--config", TRAIN, "--dir.expr_dir", folder)
            (run,) = Path(folder).iterdir()
            best = str(run / "checkpoints" / "best_accuracy.pt")
            results = Path(folder) / "results"
            self.run_command("evaluate.py", "--config", EVAL, "--model_pt", best, "--dir.eval_dir", str(results))
            self.assertGreater(json.loads((results / "summary.json").read_text())["accuracy"], 0.85)
