"""Config sections → loaders, losses, metrics."""

import subprocess
import sys
import unittest
from pathlib import Path
from unittest import mock

import torch

from common.config.build import build_loader, build_loss, build_metric, build_model, build_tester, build_trainer
from common.config.errors import UserError
from common.config.registry import COLLATE_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY, TESTER_REGISTRY, TRAINER_REGISTRY
from common.config.schema import Config, DatasetConfig, TrainerConfig
from common.data import ArrayDataset

PROJECT = Path(__file__).parents[3]


@DATASET_REGISTRY.register()
class CountingDataset(ArrayDataset):
    """The numbers from 0."""

    def __init__(self, data_dir: str, samples: int = 10):
        super().__init__(data_dir, x=torch.arange(samples))


@MODEL_REGISTRY.register()
class Doubling(torch.nn.Module):
    """Twice its input."""

    def __init__(self, size: int):
        super().__init__()

    def forward(self, x):
        return 2 * x


def load(split="train", batch_size=4, max_samples=None, **section):
    """Return the loader of a counting set."""
    section = {"type": "CountingDataset", **section}
    config = Config(dataset=DatasetConfig(**{split: section}), batch_size=batch_size)
    return build_loader(config, split, max_samples=max_samples)


class TestTrainers(unittest.TestCase):
    """build_trainer and build_tester."""

    def test_the_only_one_or_the_one_that_is_named(self):
        for build, registry in ((build_trainer, TRAINER_REGISTRY), (build_tester, TESTER_REGISTRY)):
            with mock.patch.dict(registry._classes, clear=True):
                registry.register("One")(lambda config, session: ("one", session))
                self.assertEqual(build(Config(), "here"), ("one", "here"))
                registry.register("Other")(lambda config, session: ("other", session))
                self.assertEqual(build(Config(trainer=TrainerConfig(type="Other")), "here"), ("other", "here"))
                with self.assertRaisesRegex(UserError, f"trainer.type: .* several {registry.kind}s: One, Other"):
                    build(Config(), "here")
                with self.assertRaisesRegex(UserError, f"trainer.type: unknown {registry.kind} 'Ohter', did you mean"):
                    build(Config(trainer=TrainerConfig(type="Ohter")), "here")

    def test_none(self):
        with mock.patch.dict(TRAINER_REGISTRY._classes, clear=True), self.assertRaisesRegex(UserError, "known: none"):
            build_trainer(Config(), "here")


class TestLoaders(unittest.TestCase):
    """build_loader."""

    def test_training_is_shuffled_and_the_rest_in_order(self):
        self.assertNotEqual(next(iter(load(samples=100, batch_size=100)))["x"].tolist(), list(range(100)))
        self.assertEqual(next(iter(load("val", samples=100, batch_size=100)))["x"].tolist(), list(range(100)))

    def test_a_sets_own_batch_size_comes_first(self):
        self.assertEqual([len(batch["x"]) for batch in load("val")], [4, 4, 2])
        config = Config(dataset=DatasetConfig(val={"type": "CountingDataset", "batch_size": 5}), batch_size=4)
        self.assertEqual([len(batch["x"]) for batch in build_loader(config, "val")], [5, 5])

    def test_at_most_so_many_samples(self):
        self.assertEqual([batch["x"].tolist() for batch in load("eval", max_samples=5)], [[0, 1, 2, 3], [4]])
        self.assertEqual(sum(len(batch["x"]) for batch in load("eval", max_samples=50)), 10)

    def test_a_stream(self):
        @DATASET_REGISTRY.register()
        class CountingStream(torch.utils.data.IterableDataset):
            def __init__(self, data_dir: str):
                pass

            def __iter__(self):
                return iter([{"x": 1}])

        with (
            mock.patch("common.config.registry.has_room", lambda name: False),
            self.assertRaisesRegex(UserError, "^dataset.train.type: CountingStream is a stream, and.* common/loading"),
        ):
            load(type="CountingStream")

    def test_how_samples_are_joined(self):
        @COLLATE_REGISTRY.register()
        class Last:
            def __init__(self, times: int = 1):
                self.times = times

            def __call__(self, samples):
                return {"x": self.times * samples["x"][-1:]}

        @DATASET_REGISTRY.register()
        class Joining(CountingDataset):
            def collate(self, samples):
                return {"x": samples["x"][:1]}

        self.assertEqual([b["x"].tolist() for b in load("val", type="Joining")], [[0], [4], [8]])
        collate = {"type": "Last", "times": 2}
        self.assertEqual([b["x"].tolist() for b in load("val", type="Joining", collate=collate)], [[6], [14], [18]])
        with self.assertRaisesRegex(UserError, "dataset.val.collate: .*the signature is Last"):
            load("val", collate={"type": "Last", "tims": 2})
        with self.assertRaisesRegex(UserError, "dataset.val.collate.type: unknown collate function 'Lost', did you"):
            load("val", collate={"type": "Lost"})

    def test_a_missing_section(self):
        config = Config()
        self.assertIsNone(build_loader(config, "val"))
        with self.assertRaisesRegex(UserError, "dataset.train: expected a section"):
            build_loader(config, "train")

    def test_an_empty_set(self):
        with self.assertRaisesRegex(UserError, "dataset.train: CountingDataset found no samples in data"):
            load(samples=0)

    def test_mistakes(self):
        for keys, message in (
            ({"samples": "many"}, "dataset.train: 'samples' must be of type int"),
            ({"sample": 3}, "'sample'; the signature is CountingDataset"),
            ({"worker": -1}, "dataset.train.worker: expected a whole number from 0 to 1000, found -1"),
        ):
            with self.assertRaisesRegex(UserError, message):
                load(**keys)


class TestTerms(unittest.TestCase):
    """build_loss, build_metric and build_model."""

    def test_losses(self):
        section = {
            "l1": {"type": "L1Loss", "input_name": ["y", "t"], "weight": 2.0},
            "l2": {"type": "MSELoss", "input_name": ["y", "t"]},
        }
        result = build_loss(section)({"y": torch.tensor([3.0])}, {"t": torch.tensor([1.0])})
        self.assertEqual([result[name].item() for name in ("l1", "l2", "sum")], [4.0, 4.0, 8.0])
        self.assertEqual(section["l1"]["weight"], 2.0)

    def test_a_terms_name_is_none_of_the_results(self):
        for name in ("loss", "names", "sum"):
            with self.assertRaisesRegex(UserError, f"^loss.{name}: this name is taken by the sum of all terms"):
                build_loss({name: {"type": "L1Loss", "input_name": ["y", "x"]}})

    def test_models_of_the_project(self):
        self.assertEqual(build_model({"type": "Doubling", "size": 4})(torch.ones(3)).tolist(), [2.0, 2.0, 2.0])

    def test_mistakes(self):
        for build, section, message in (
            (build_loss, {}, "loss: expected at least one term"),
            (build_loss, {"ce": 1}, "loss.ce: expected a section with a 'type', found 1"),
            (build_loss, {"ce": {"type": "L1Loss", "weight": "big"}}, "loss.ce.weight: expected a number, found 'big'"),
            (
                build_loss,
                {"ce": {"type": "L1Loss", "input_name": "y"}},
                "loss.ce.input_name: expected a list of names, ",
            ),
            (build_loss, {"ce": {"type": "L1Loss", "input_name": [1, 2]}}, r"input_name: expected .*, found \[1, 2\]"),
            (build_loss, {"ce": {"type": "L1Loss"}}, "loss.ce: L1Loss needs input_name, .*such as .logits, label."),
            (build_loss, {"ce": {"type": "L2Loss"}}, "loss.ce.type: unknown loss 'L2Loss', did you mean 'L1Loss'"),
            (build_metric, {"acc": {"type": "Acc"}}, "metric.acc.type: unknown metric 'Acc'"),
            (build_model, {"sizes": [1, 2]}, "model: expected a section with a 'type'"),
        ):
            with self.subTest(section=section), self.assertRaisesRegex(UserError, message):
                build(section)


class TestStart(unittest.TestCase):
    def test_what_takes_long_to_load_is_loaded_where_it_is_used(self):
        script = "import sys, common.config.build, common.engine, common.run.launch; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
        self.assertFalse({"kornia", "torchmetrics", "torchvision", "timm"} & set(done.stdout.split()))
