"""The tools, on experiments and configs that the tests write, in a project of their own."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from PIL import Image

from common.config.errors import UserError
from common.tools import compare, find_lr, plot, split
from common.tools.curves import read_curves
from tests import slow

PROJECT = Path(__file__).parents[3]
NAMES = "compare find_lr overfit parameters plot split".split()

TRAINER = """
import torch
from torch import nn

from common import DATASET_REGISTRY, MODEL_REGISTRY, ArrayDataset, Trainer
from common import TRAINER_REGISTRY, build_loader, build_loss, build_model, build_optimizer

@DATASET_REGISTRY.register()
class Ones(ArrayDataset):
    def __init__(self, data_dir, labels=4):
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(64, 1, 4, 4, generator=generator)
        super().__init__(data_dir, image=images, label=torch.randint(labels, (64,), generator=generator))

@MODEL_REGISTRY.register()
class Net(nn.Module):
    def __init__(self, sizes, dropout=0.0):
        super().__init__()
        layers = [nn.Flatten()]
        for width, following in zip(sizes, sizes[1:]):
            layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers[:-2])

    def forward(self, image):
        return self.layers(image)

@TRAINER_REGISTRY.register()
class Tried(Trainer):
    def __init__(self, config, session):
        super().__init__(config, session)
        self.register_loader(build_loader(config, "train"))
        self.register_model(build_model(config.model))
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.loss = build_loss(config.loss)

    def train_step(self, epoch, iteration, data_dict):
        output = {"logits": self.model(data_dict["image"])}
        return output, {"loss": self.loss(output, data_dict)["sum"]}

    def val_step(self, *arguments):
        return self.train_step(*arguments)
"""
# Dropout that is no module, label smoothing, a small learning rate: each kept a sound model from being recognized.
GPT = """
from torch.nn import functional

@DATASET_REGISTRY.register()
class Text(ArrayDataset):
    def __init__(self, data_dir):
        tokens = torch.randint(32, (16, 17), generator=torch.Generator().manual_seed(0))
        super().__init__(data_dir, image=tokens[:, :-1], label=tokens[:, 1:])

@MODEL_REGISTRY.register()
class GPT(nn.Module):
    def __init__(self, width=64, dropout=0.2):
        super().__init__()
        self.dropout = dropout
        self.token, self.place = nn.Embedding(32, width), nn.Embedding(16, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.inputs, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 32)

    def forward(self, tokens):
        x = self.token(tokens) + self.place.weight
        queries = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.inputs(self.norms[0](x)).chunk(3, -1))
        p = self.dropout if self.training else 0.0
        heads = functional.scaled_dot_product_attention(*queries, dropout_p=p, is_causal=True)
        x = x + self.joined(heads.transpose(1, 2).flatten(2))
        x = x + functional.dropout(self.layers(self.norms[1](x)), self.dropout, self.training)
        return self.head(self.norms[2](x)).transpose(1, 2)
"""
GPT_ARGS = ["--dataset.train.type", "Text", "--model", "{type: GPT}", "--optim.lr", "3e-4"]
GPT_ARGS += ["--loss.ce.label_smoothing", "0.1"]
CONFIG = """
name: tried
gpu_ids: -1
batch_size: 16
optim: {lr: 0.01, clip_gradients: 1.0}
dataset: {train: {type: Ones}}
model: {type: Net, sizes: [16, 64, 4], dropout: 0.5}
loss: {ce: {type: CrossEntropyLoss, input_name: [logits, label]}}
"""


class ToolsTest(unittest.TestCase):
    """A project with a package of another name, in which the tools are started."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        (self.folder / "mine" / "trainers").mkdir(parents=True)
        (self.folder / "mine" / "__init__.py").write_text(TRAINER)
        (self.folder / "common").symlink_to(PROJECT / "common")
        (self.folder / "config.yaml").write_text(CONFIG)

    def start(self, name, *args, expect=0):
        command = [sys.executable, "-m", f"common.tools.{name}", *map(str, args)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done.stdout if expect == 0 else done.stdout + done.stderr

    def experiment(self, name, **curves):
        folder = self.folder / "experiments" / name
        folder.mkdir(parents=True)
        (folder / "cfg_backup.yaml").write_text(CONFIG.replace("tried", name))
        with (folder / "metrics.jsonl").open("w") as file:
            for step in range(3):
                for split_name in ("train", "val"):
                    values = {key: value / (step + 1) for key, value in curves.items()}
                    line = {"split": split_name, "epoch": step, "step": step, "time": 0.0, **values}
                    file.write(json.dumps(line | {"nothing": None}) + "\n")
        return folder


class TestHelp(ToolsTest):
    def test_of_each(self):
        for name in NAMES:
            shown = self.start(name, "--help")
            self.assertIn(f"python -m common.tools.{name}", shown)

    def test_a_mistake_in_a_config(self):
        for name in ("parameters", "find_lr", "overfit"):
            shown = self.start(name, "--config", "config.yaml", "--optim.lrr", "1", expect=2)
            self.assertRegex(shown, r"error: --optim.lrr: unknown key, did you mean '--optim.lr'\?\n$")

    def test_no_project(self):
        (self.folder / "mine" / "trainers").rmdir()
        shown = self.start("parameters", "--config", "config.yaml", expect=2)
        self.assertRegex(shown, "no package with a folder trainers here")


class TestCompare(ToolsTest):
    def test_configs(self):
        text = CONFIG.replace("0.01", "0.02").replace("dropout: 0.5", "bias: true")
        (self.folder / "other.yaml").write_text(text)
        lines = [line.split() for line in self.start("compare", "config.yaml", "other.yaml").splitlines()]
        self.assertEqual(lines[0], ["key", "config.yaml", "other.yaml"])
        expected = [["optim.lr", "0.01", "0.02"], ["model.dropout", "0.5", "-"], ["model.bias", "-", "True"]]
        self.assertEqual(lines[1:], expected)
        self.assertEqual(self.start("compare", "config.yaml", "config.yaml"), "no key differs\n")

    def test_experiments(self):
        one, other = self.experiment("one", loss=3.0, accuracy=0.6), self.experiment("other", loss=1.5)
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            compare.main([str(one), str(other)])
        lines = [line.split() for line in shown.getvalue().splitlines()]
        self.assertIn(["name", "'one'", "'other'"], lines)
        self.assertIn(["val/loss", "1", "0.5"], lines)
        self.assertIn(["val/accuracy", "0.2", "-"], lines)

    def test_no_experiment(self):
        self.assertIn("No such file", self.start("compare", "config.yaml", "none.yaml", expect=2))


class TestPlot(ToolsTest):
    def test_a_panel_a_key(self):
        runs = {name: read_curves(self.experiment(name, loss=2.0, accuracy=0.9)) for name in ("one", "other")}
        axes = [axis for axis in plot.plot(runs).axes if axis.get_visible()]
        self.assertEqual(
            [(a.get_xlabel(), a.get_ylabel()) for a in axes], [("iteration", "loss"), ("iteration", "accuracy")]
        )
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes[0].lines}
        self.assertEqual(len(lines), 4)
        self.assertEqual(lines["other, validation"], [[0.0, 2.0], [1.0, 1.0], [2.0, 2 / 3]])
        self.assertEqual([a.get_ylabel() for a in plot.plot(runs, ["accuracy"]).axes], ["accuracy"])

    def test_the_command(self):
        self.experiment("one", loss=2.0)
        self.start("plot", "experiments/one", "--out", "curves.png")
        self.assertGreater(Image.open(self.folder / "curves.png").width, 400)
        shown = self.start("plot", "experiments/one", "--keys", "lss", expect=2)
        self.assertEqual(shown, "plot.py: error: --keys: no run has 'lss', did you mean 'loss'?\n")

    def test_what_is_no_run(self):
        path = self.folder / "metrics.jsonl"
        for text, message in (
            (None, "metrics.jsonl: No such file or directory; expected an experiment's folder"),
            (
                '{"split": "val", "step": 1, "loss": 1.0}\nx',
                "metrics.jsonl:2: expected what a run has written, found 'x'",
            ),
            ('{"loss": 1.0}', "metrics.jsonl:1: expected what a run has written"),
            ("[1]", "metrics.jsonl:1: expected what a run has written"),
        ):
            if text is not None:
                path.write_text(text)
            with self.assertRaisesRegex(UserError, message):
                read_curves(self.folder)


class TestModelTools(ToolsTest):
    @slow
    def test_parameters(self):
        lines = self.start("parameters", "--config", "config.yaml").splitlines()
        self.assertEqual(lines[1].split(), ["layers.1.weight", "64", "x", "16", "1,024", "yes"])
        self.assertEqual(lines[-1].split(), ["total", "1,348", "1,348"])
        several = self.start("parameters", "--config", "config.yaml", "--model", "{a: {type: Net, sizes: [2, 3]}}")
        self.assertEqual((several.splitlines()[0], several.split()[-1]), ("a:", "9"))

    def test_overfit(self):
        shown = self.start("overfit", "--config", "config.yaml")
        self.assertRegex(shown, r"the loss went from 1\.\d+ to \S+ in \d+ steps: learned by heart\n$")
        shown = self.start("overfit", "--config", "config.yaml", "--optim.lr", "1e-3", "--steps", "20", expect=1)
        self.assertRegex(shown, "in 20 steps: not learned yet, but still falling: try more --steps")
        shown = self.start("overfit", "--config", "config.yaml", "--optim.lr", "1e-7", expect=1)
        self.assertRegex(shown, r"in 3\d\d steps: not learned: it has stopped falling, above 0\.1")
        self.assertEqual(list(self.folder.glob("experiments/*")), [])
        shown = self.start("overfit", "--config", "config.yaml", "--steps", "0", expect=2)
        self.assertRegex(shown, "^overfit.py: error: --steps, --share: expected 1 step")

    def test_a_healthy_gpt_is_learned(self):
        (self.folder / "mine" / "__init__.py").write_text(TRAINER + GPT)
        shown = self.start("overfit", "--config", "config.yaml", *GPT_ARGS)
        self.assertRegex(shown, r"the loss went from [34]\.\d+ to 0\.\d+ in \d+ steps: learned by heart\n$")

    def test_find_lr(self):
        shown = self.start("find_lr", "--config", "config.yaml", "--steps", "120", "--out", "lr.png")
        rate = float(shown.split()[-1])
        self.assertTrue(1e-4 < rate < 1, rate)
        self.assertGreater(Image.open(self.folder / "lr.png").width, 400)
        shown = self.start("find_lr", "--config", "config.yaml", "--from", "1", "--to", "0.1", expect=2)
        self.assertIn("expected 0 < from < to", shown)

    def test_the_steepest_fall(self):
        rates = [10 ** (-5 + i / 20) for i in range(100)]
        losses = [2 if rate < 1e-3 else 1 for rate in rates]
        self.assertAlmostEqual(find_lr.steepest(rates, losses), 1e-3, delta=2e-4)
        with self.assertRaisesRegex(UserError, "lower --from"):
            find_lr.steepest(rates[:3], losses[:3])


class TestSplit(ToolsTest):
    def setUp(self):
        super().setUp()
        self.data = self.folder / "data"
        for car in range(10):
            (self.data / f"{car % 2}").mkdir(parents=True, exist_ok=True)
            for angle in range(4):
                (self.data / f"{car % 2}" / f"car{car}_{angle}.jpg").touch()
        (self.data / "notes.txt").touch()

    def split(self, *args):
        with contextlib.redirect_stdout(io.StringIO()):
            split.main([str(self.data), "--pattern", "*.jpg", "--out", str(self.folder / "lists"), *args])
        paths = sorted((self.folder / "lists").glob("*.txt"))
        return {path.stem: path.read_text().split() for path in paths}

    def test_files(self):
        lists = self.split("--shares", "0.5", "0.25", "0.25")
        self.assertEqual({name: len(files) for name, files in lists.items()}, {"train": 20, "val": 10, "eval": 10})
        self.assertEqual(len({file for files in lists.values() for file in files}), 40)
        self.assertTrue((self.data / lists["train"][0]).is_file())

    def test_groups_stay_together(self):
        lists = self.split("--names", "a", "b", "--shares", "0.7", "0.3", "--group", "(car[0-9]+)_")
        cars = [{file.split("/")[1].split("_")[0] for file in files} for files in lists.values()]
        self.assertEqual([len(names) for names in cars], [7, 3])
        self.assertFalse(cars[0] & cars[1])

    def test_mistakes(self):
        (self.folder / "lists").mkdir()
        (self.folder / "lists" / "val.txt").touch()
        for args, message in (
            ((), "val.txt exists and is not overwritten"),
            (("--shares", "0.9", "0.9", "0.1"), "--shares: shares must not be negative, nor above 1"),
            (("--shares", "1.0"), "--shares: expected 3, one for each name, found 1"),
            (("--group", "(car"), r"--group: '\(car': .*; expected a regular expression"),
            (("--pattern", "*.png"), "no file \\*.png there"),
        ):
            with self.assertRaises(SystemExit) as ended, contextlib.redirect_stderr(io.StringIO()) as shown:
                self.split(*args)
            self.assertEqual(ended.exception.code, 2)
            self.assertRegex(shown.getvalue(), message)
        self.assertEqual([path.name for path in (self.folder / "lists").iterdir()], ["val.txt"])
