"""The example of a GAN: its parts, and its commands with small models."""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from torch import nn

from common.config.errors import UserError
from common.data import ArrayDataset, make_loader
from common.state.file import read_checkpoint
from tests import FULL, slow
from tests.compare import differences
from tests.tests_common.processes import run_script
from custom.datasets.digits_dataset import DigitsDataset
from custom.losses.wasserstein_loss import GradientPenalty, Wasserstein
from custom.metrics.frechet_metric import FrechetDistance
from custom.models.feature_model import train_feature_model
from custom.models.gan_model import Critic, Generator
from custom.trainers.gan_trainer import CRITIC_STEPS

PROJECT = Path(__file__).parents[2]
KILLS = 5 if FULL else 1
SMALL = ["--batch_size", "40", "--model.generator.width", "8", "--model.critic.width", "8"]

# Train on all ranks, and tell a digest of each rank's weights.
WEIGHTS = """
    import hashlib, sys
    from common import launch, load_config
    from common.run.distributed import gather

    config = load_config(sys.argv[1:])
    import custom
    with launch(config) as session:
        trainer = custom.build_trainer(config, session)
        trainer.run()
        models = [trainer.forms.bare[name] for name in ("critic", "generator", "features")]
        weights = [value.numpy().tobytes() for model in models for value in model.state_dict().values()]
        print("DIGESTS", *gather(hashlib.sha256(b"".join(weights)).hexdigest()))
"""


def config_of(example):
    """Return the config of an example, which has another name where it is the only one."""
    path = PROJECT / f"configs/{example}.yaml"
    return str(path if path.exists() else PROJECT / f"configs/{example.replace('gan', 'default')}.yaml")


class LinearCritic(nn.Module):
    """A score that is three times the first pixel, plus the class."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(3.0))

    def forward(self, image, label):
        return image.flatten(1)[:, :1] * self.slope + label[:, None]


class TestLosses(unittest.TestCase):
    def setUp(self):
        self.critic = LinearCritic()
        self.output = {"critic": self.critic, "generated": torch.full((4, 1, 8, 8), 0.25)}
        self.data = {"image": torch.ones(4, 1, 8, 8), "label": torch.arange(4)}

    def test_wasserstein(self):
        self.assertAlmostEqual(Wasserstein()(self.output, self.data).item(), 3 * (0.25 - 1), places=6)

    def test_gradient_penalty(self):
        loss = GradientPenalty()(self.output, self.data)
        self.assertAlmostEqual(loss.item(), (3 - 1) ** 2, places=5)
        loss.backward()
        self.assertAlmostEqual(self.critic.slope.grad.item(), 2 * (3 - 1), places=5)

    def test_the_penalty_is_taken_between_the_images(self):
        seen = []
        self.critic.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
        GradientPenalty()(self.output, self.data)
        places = seen[0].flatten(1)
        self.assertTrue(places.eq(places[:, :1]).all())  # one place for all pixels of an image
        self.assertEqual(len(places[:, 0].unique()), 4)
        self.assertTrue(places.min() >= 0.25 and places.max() <= 1)


class TestDistance(unittest.TestCase):
    def distance(self, one, other, size=1000):
        metric = FrechetDistance()
        for start in range(0, len(one), size):
            features = {"features": one[start : start + size], "real_features": other[start : start + size]}
            metric.update(features, {})
        return metric.compute()

    def test_of_normal_distributions(self):
        torch.manual_seed(0)
        one, other = torch.randn(2, 200_000, 3).double()
        other = other * torch.tensor([2.0, 3.0, 1.0]) + torch.tensor([1.0, 0.0, -2.0])
        expected = (1 + 4) + (1 + 4 + 0)  # of the means, and of the standard deviations
        self.assertAlmostEqual(self.distance(one, other, 70_000), expected, delta=0.1)
        turn = torch.linalg.qr(torch.randn(3, 3).double())[0]
        self.assertAlmostEqual(self.distance(one @ turn, other @ turn), self.distance(one, other), places=6)
        self.assertAlmostEqual(self.distance(one, one.flip(0)), 0, places=6)

    def test_too_few_images_or_numbers_that_are_none(self):
        one = torch.randn(5, 3)
        self.assertEqual(str(FrechetDistance().compute()), "nan")
        self.assertEqual(str(self.distance(one[:1], one[:1])), "nan")
        self.assertEqual(str(self.distance(one, one / 0)), "nan")

    def test_reset(self):
        one, other, metric = torch.randn(50, 3), torch.randn(50, 3), FrechetDistance()
        metric.update({"features": one * 9, "real_features": other}, {})
        metric.reset()
        metric.update({"features": one, "real_features": other}, {})
        self.assertEqual(metric.compute(), self.distance(one, other))


class TestModels(unittest.TestCase):
    def test_sizes(self):
        label = torch.tensor([0, 2, 1])
        for size, channels in ((8, 1), (32, 3)):
            with self.subTest(size):
                images = Generator(classes=3, width=8, size=size, channels=channels)(label)
                self.assertEqual(images.shape, (3, channels, size, size))
                self.assertTrue(images.min() >= 0 and images.max() <= 1)
                self.assertEqual(Critic(classes=3, width=8, size=size, channels=channels)(images, label).shape, (3, 1))

    def test_the_class_counts(self):
        generator, critic = Generator(), Critic()
        images = []
        for number in (3, 4):
            torch.manual_seed(0)
            images.append(generator(torch.tensor([number])))
        self.assertFalse(images[0].equal(images[1]))
        self.assertNotEqual(critic(images[0], torch.tensor([3])).item(), critic(images[0], torch.tensor([4])).item())

    def test_a_wrong_size(self):
        for size in (4, 12, 0, -8):
            with self.assertRaisesRegex(ValueError, f"size must be a power of two from 8 on, found {size}"):
                Generator(size=size)

    def test_images_that_are_not_in_0_to_1(self):
        images = torch.rand(20, 1, 8, 8)
        for wrong, found in ((images.mul(255).byte(), "uint8 from"), (images - 1, "float32 from -")):
            loader = make_loader(ArrayDataset("data", image=wrong, label=torch.arange(20) % 10), 10)
            with self.assertRaisesRegex(UserError, f"images must be numbers in \\[0, 1\\].*{found}"):
                train_feature_model({"type": "FeatureModel"}, loader)

    def test_features_are_the_same_in_any_run_and_know_the_digits(self):
        def train(seed):
            torch.manual_seed(seed)
            loader = make_loader(DigitsDataset("data", "train"), 40, training=True, seed=seed)
            model, drawn = train_feature_model({"type": "FeatureModel"}, loader), torch.rand(1)
            torch.manual_seed(seed)
            self.assertTrue(drawn.equal(torch.rand(1)))  # the training's random numbers are not touched
            return model

        model, other = train(1), train(2)
        for one, same in zip(model.parameters(), other.parameters(), strict=True):
            self.assertTrue(one.equal(same) and not one.requires_grad)
        held_out = DigitsDataset("data", "val").tensors
        self.assertGreater((model(held_out["image"])[1].argmax(1) == held_out["label"]).float().mean(), 0.95)


class TestCommands(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_command(self, *words, expect=0):
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run([sys.executable, *words], cwd=PROJECT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done.stderr

    def flags(self, name, *flags):
        """Return the flags of a short run with small models."""
        progress = ["--progress.epoch", "2", "--progress.iters_per_epoch", "12", "--progress.iter_loss", "1"]
        places = ["--gpu_ids", "-1", "--dir.expr_dir", str(self.folder), "--name", name]
        return ["--config", config_of("gan"), *places, *progress, *SMALL, *flags]

    def train(self, name, *flags, expect=0):
        return self.run_command("train.py", *self.flags(name, *flags), expect=expect)

    def logged(self, name):
        return list(map(json.loads, (self.folder / name / "metrics.jsonl").read_text().splitlines()))

    def test_training_and_evaluation(self):
        said = self.train("small", "--progress.epoch_eval", "2")
        self.assertIn("best         frechet", said)
        state = read_checkpoint(self.folder / "small/checkpoints/final.pt")
        steps = {name: state[f"updater.{name}"]["steps"] for name in ("critic", "generator")}
        self.assertEqual(steps, {"critic": 24 * CRITIC_STEPS, "generator": 24})
        for name in steps:
            self.assertLess(state[f"optimizer.{name}"]["param_groups"][0]["lr"], 1e-9)  # the end of its schedule
        self.assertNotIn("ema.critic", state)
        pages = sorted((self.folder / "small/progress/val").rglob("*.png"))
        self.assertEqual(len(pages), 2)
        self.assertTrue((self.folder / "small/eval/epoch_002/predictions.png").exists())
        values = [line for line in self.logged("small") if line["split"] == "train"]
        self.assertTrue({"loss.critic", "loss.generator", "wasserstein", "penalty"} <= values[0].keys())
        # The last validation, again: averaged weights, the same features, the same noise.
        flags = ["--dataset.eval.split", "val", "--batch_size", "40", "--model.generator.width", "8", "--gpu_ids", "-1"]
        flags += ["--dir.eval_dir", str(self.folder / "again")]
        weights = ["--model_pt", str(self.folder / "small/checkpoints/final.pt")]
        evaluation = config_of("eval_gan").replace("eval_default", "eval")
        self.run_command("evaluate.py", "--config", evaluation, *weights, *flags)
        summary = json.loads((self.folder / "again/summary.json").read_text())
        found = [line for line in self.logged("small") if line["split"] == "val"][-1]
        for name in ("frechet", "accuracy"):
            self.assertAlmostEqual(summary[name], found[name], places=5)
        self.assertEqual(len((self.folder / "again/samples.csv").read_text().splitlines()), 271)

    def test_mistakes_in_one_line(self):
        cases = {
            "model.generator: Generator: size must be a power of two from 8 on, found 12": [
                "--model.generator.size",
                "12",
            ],
            "model.critic: expected a section with a 'type', found None": ["--model.critic", "null"],
            "model.critic: takes images (1, 16, 16), found (1, 8, 8)": ["--model.critic.size", "16"],
            "model: made for 9 classes, found the label 9 in dataset.train": ["--model.features.classes", "9"],
            "optim.named.critic: no such section": ["--optim.named", "{}"],
            "trainer.compile: a gradient penalty needs second derivatives": ["--trainer.compile", "true"],
            "step('critic'): twice for one batch": ["--trainer.accumulate", "2"],
        }
        for i, (message, flags) in enumerate(cases.items()):
            with self.subTest(message):
                said = self.train(f"wrong{i}", *flags, expect=2)
                self.assertIn(message, said)
                self.assertNotIn("Traceback", said)

    def test_killed_and_resumed(self):
        saves = ["--progress.iter_save_checkpoint", "2"]
        self.train("whole", *saves)
        flags = self.flags("killed", *saves, "--resume", "auto")
        draw = random.Random(0)
        for _ in range(KILLS):
            command = [sys.executable, "train.py", *flags]
            with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) as process:
                for line in process.stderr:
                    if "iteration" in line and draw.random() < 0.2:
                        process.kill()
                        break
        self.run_command("train.py", *flags)
        self.assertEqual(list(differences(self.folder / "whole", self.folder / "killed")), [])

    def test_two_ranks_hold_the_same_weights(self):
        said = run_script(self.folder, WEIGHTS, 2, *self.flags("ranks")).stdout
        digests = re.search(r"DIGESTS (\w+) (\w+)", said)
        self.assertEqual(digests[1], digests[2])

    @slow
    def test_learns_to_draw_digits(self):
        self.run_command(
            "train.py", "--config", config_of("gan"), "--gpu_ids", "-1", "--dir.expr_dir", str(self.folder)
        )
        found = [line for line in self.logged("gan") if line["split"] == "val"]
        self.assertLess(min(line["frechet"] for line in found), found[0]["frechet"] / 3)
        self.assertGreater(found[-1]["accuracy"], 0.9)


if __name__ == "__main__":
    unittest.main()
