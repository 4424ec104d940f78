"""Commands on a model that train.py has trained, and the rows of evaluate.py to compare predictions with."""

import csv
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROJECT = Path(__file__).parents[3]


class TrainedTest(unittest.TestCase):
    """One trained checkpoint for all tests of a class, and its rows in ``samples.csv``."""

    train_config, eval_config, flags, train_flags = "", "", [], []

    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name)
        words = ["--config", cls.train_config, "--name", "run", "--dir.expr_dir", cls.folder, *cls.flags]
        cls.run_command("train.py", *words, *cls.train_flags)
        cls.checkpoint = cls.folder / "run/checkpoints/final.pt"
        words = ["--config", cls.eval_config, "--model_pt", cls.checkpoint, "--dir.eval_dir", cls.folder / "results"]
        cls.run_command("evaluate.py", *words, *cls.flags)
        with (cls.folder / "results/samples.csv").open() as file:
            cls.rows = list(csv.DictReader(file))

    @classmethod
    def run_command(cls, script, *words, folder=PROJECT):
        """Run a script on the CPU, and return what it prints."""
        command = [sys.executable, str(PROJECT / script), "--gpu_ids", "-1", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(done.stderr)
        return done.stdout

    def predict(self, inputs, *words, model=None):
        """Return the lines of ``predictions.jsonl``; predict.py is run in another folder."""
        output = self.folder / "out"
        words = ["--model_pt", model or self.checkpoint, "--input", inputs, "--output", output, *words]
        self.run_command("predict.py", *words, folder=self.folder)
        return list(map(json.loads, (output / "predictions.jsonl").read_text().splitlines()))

    def export(self, format, name, *words):
        """Export the checkpoint, and return the file."""
        path = self.folder / name
        self.run_command("export.py", "--model_pt", self.checkpoint, "--format", format, "--output", path, *words)
        return path
