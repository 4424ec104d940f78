"""The commands on the real data: train.py, evaluate.py and job.sh."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common import find_room
from common.state.file import read_checkpoint
from tests import slow

PROJECT = Path(__file__).parents[2]
DRAWS = find_room("vision.pictures") is not None


class CommandsTest(unittest.TestCase):
    """Each test has a folder of its own for experiments and results."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_command(self, *args, expect=0):
        python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": python}
        done = subprocess.run(args, cwd=PROJECT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done.stderr

    def train(self, *flags, expect=0):
        command = [sys.executable, "train.py", "--config", "configs/default.yaml", "--gpu_ids", "-1"]
        return self.run_command(*command, "--dir.expr_dir", str(self.folder), *flags, expect=expect)

    def metrics(self, name="digits"):
        return [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]


class TestTraining(CommandsTest):
    """The default run."""

    def test_reaches_the_accuracy_by_epochs_and_by_iterations(self):
        for mode in ("epoch", "iter"):
            with self.subTest(mode=mode):
                console = self.train("--trainer.mode", mode, "--name", mode)
                best = max(line["accuracy"] for line in self.metrics(mode) if line["split"] == "val")
                self.assertGreaterEqual(best, 0.97)
                self.assertIn(f"best         accuracy {best:.4f}, in {self.folder / mode}", console)

    def test_curves_and_pictures(self):
        flags = ["--progress.epoch", "2", "--progress.save_progress", "true", "--progress.local_progress", "true"]
        self.train(*flags, "--progress.epoch_eval", "2", "--progress.max_samples_eval", "50")
        events = EventAccumulator(str(self.folder / "digits" / "event"), size_guidance={"scalars": 0}).Reload()
        scalars = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
        lines = self.metrics()
        for line in lines:
            numbers = {name: value for name, value in line.items() if name not in ("split", "epoch", "step", "time")}
            for name, value in numbers.items():
                self.assertAlmostEqual(
                    scalars.pop((f"{line['split']}/{name}", line["step"])), value, delta=1e-6 * abs(value)
                )
        self.assertEqual(scalars, {})
        for split, names in {
            "train": {"loss", "learning_rate"},
            "val": {"loss", "accuracy"},
            "eval": {"accuracy"},
        }.items():
            found = next(line for line in lines if line["split"] == split)
            self.assertLessEqual(names, set(found))
        drawn = {"train/guesses", "val/guesses"} if DRAWS else set()
        self.assertEqual(set(events.Tags()["images"]), drawn)
        for name in drawn:
            self.assertEqual(len(list((self.folder / "digits" / "progress" / name).glob("*.png"))), 2)
        self.assertEqual((self.folder / "digits" / "eval" / "epoch_002" / "predictions.png").is_file(), DRAWS)

    @slow
    def test_job_sh_gives_the_same_bits(self):
        self.train("--progress.epoch", "2", "--trainer.accumulate", "2", "--optim.ema_decay", "0.9")
        self.run_command("sh", str(self.folder / "digits" / "job.sh"))
        one, other = (
            read_checkpoint(self.folder / name / "checkpoints" / "final.pt") for name in ("digits", "digits_replicate")
        )
        for part in (lambda state: state["model"], lambda state: state["ema"]["weights"]):
            for key, value in part(one).items():
                self.assertTrue(value.equal(part(other)[key]), key)

    @slow
    def test_goes_on_in_place(self):
        self.train("--progress.epoch", "1")
        console = self.train("--progress.epoch", "2", "--resume", str(self.folder / "digits"))
        self.assertIn("from epoch 1, iteration 0", console)
        self.assertEqual([line["epoch"] for line in self.metrics() if line["split"] == "val"], [0, 1])

    def test_an_existing_experiment_is_refused(self):
        self.train("--progress.epoch", "1")
        before = (self.folder / "digits" / "metrics.jsonl").read_bytes()
        console = self.train("--progress.epoch", "1", expect=2)
        self.assertRegex(console, r"^train.py: error: \S+digits exists and is not overwritten: .*--resume .*\n$")
        self.assertEqual((self.folder / "digits" / "metrics.jsonl").read_bytes(), before)

    @slow
    def test_a_mistake_leaves_no_experiment_in_the_way(self):
        console = self.train("--model.widht", "8", expect=2)
        self.assertRegex(console, r"^train.py: error: model: .*'widht'; the signature is DigitsModel\(width: int = 16")
        self.train("--progress.epoch", "1")


class TestEvaluation(CommandsTest):
    """evaluate.py on a checkpoint."""

    def evaluate(self, *flags, expect=0):
        command = [sys.executable, "evaluate.py", "--config", "configs/eval.yaml", "--gpu_ids", "-1"]
        return self.run_command(*command, "--dir.eval_dir", str(self.folder / "results"), *flags, expect=expect)

    def test_writes_numbers_and_a_picture(self):
        self.train("--progress.epoch", "5")
        self.evaluate("--model_pt", str(self.folder / "digits" / "checkpoints" / "best_accuracy.pt"))
        summary = json.loads((self.folder / "results" / "summary.json").read_text())
        self.assertGreater(summary["accuracy"], 0.9)
        if DRAWS:
            self.assertTrue((self.folder / "results" / "predictions.png").read_bytes().startswith(b"\x89PNG"))
        header = (self.folder / "results" / "samples.csv").read_text().splitlines()[0]
        self.assertEqual(header.split(","), ["sample", "accuracy", "label", "guess", "confidence"])

    @slow
    def test_a_set_without_labels(self):
        self.train("--progress.epoch", "1")
        script = self.folder / "unlabeled.py"
        script.write_text(
            "import sys, evaluate\nfrom custom.datasets.digits_dataset import DigitsDataset\n"
            "DigitsDataset.__getitems__ = lambda self, rows: {'image': self.tensors['image'][rows]}\nevaluate.main()\n"
        )
        environment = {"PYTHONPATH": str(PROJECT)}
        flags = ["--config", "configs/eval.yaml", "--gpu_ids", "-1", "--model_pt", str(self.folder / "digits")]
        command = [sys.executable, str(script), *flags, "--dir.eval_dir", str(self.folder / "results")]
        with mock.patch.dict(os.environ, environment):
            console = self.run_command(*command, expect=2)
            self.assertRegex(console, r"error: metric: found no 'label' .* but image, logits; .* --metric \{\}")
            self.run_command(*command, "--metric", "{}")
        header = (self.folder / "results" / "samples.csv").read_text().splitlines()[0]
        self.assertEqual(header.split(","), ["sample", "guess", "confidence"])

    @slow
    def test_a_checkpoint_of_another_model(self):
        self.train("--progress.epoch", "1", "--model.width", "4")
        console = self.evaluate("--model_pt", str(self.folder / "digits"), expect=2)
        self.assertRegex(
            console, r"does not fit DigitsModel: 'features.0.weight': expected \(16, 1, 3, 3\), found \(4, 1, 3, 3\)"
        )

    @slow
    def test_no_checkpoint(self):
        (self.folder / "junk.pt").write_bytes(b"junk")
        for path, message in (
            (self.folder / "junk.pt", "no checkpoint"),
            (self.folder / "none.pt", "no such checkpoint"),
        ):
            console = self.evaluate("--model_pt", str(path), expect=2)
            self.assertRegex(console, rf"^evaluate.py: error: {path}: {message}.*\n$")
