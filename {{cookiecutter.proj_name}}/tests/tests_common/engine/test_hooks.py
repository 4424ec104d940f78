"""Hooks run wherever they are set, and parts may be registered late."""

import json
import unittest

import torch
from loguru import logger

from common.data import make_loader
from tests.tests_common.engine import toy

HOOKS = """
    before_train_epoch before_train_step after_backward after_train_step after_train_epoch
    before_val_epoch before_val_step after_val_step after_val_epoch
""".split()


class TestHooks(unittest.TestCase):
    """Each hook is noted when it runs."""

    def check(self, trainer_class, seen, on_instance=False):
        trainer = trainer_class(toy.make_config(), toy.make_session(self))
        for name in HOOKS if on_instance else ():
            setattr(trainer, name, lambda *arguments, name=name: seen.add(name))
        trainer.run()
        self.assertEqual(seen, set(HOOKS))

    def hooks(self, seen):
        return {name: lambda self, *arguments, name=name: seen.add(name) for name in HOOKS}

    def test_in_a_subclass(self):
        seen = set()
        self.check(type("Own", (toy.ToyEpochTrainer,), self.hooks(seen)), seen)

    def test_in_a_mixin(self):
        seen = set()
        mixin = type("Mixin", (), self.hooks(seen))
        self.check(type("Own", (mixin, toy.ToyIterTrainer), {}), seen)

    def test_on_an_instance(self):
        seen = set()
        self.check(toy.ToyEpochTrainer, seen, on_instance=True)


class TestLateParts(unittest.TestCase):
    """What a hook registers counts from there on."""

    def test_a_training_loader(self):
        sizes = []

        class Growing(toy.ToyEpochTrainer):
            def before_train_epoch(self, epoch):
                self.register_loader(make_loader(toy.make_data(12 * (epoch + 1)), 12, training=True), self.val_loader)

            def after_train_epoch(self, epoch, summary_dict):
                sizes.append(self.total_iterations)

        Growing(toy.make_config(), toy.make_session(self)).run()
        self.assertEqual(sizes, [1, 3])

    def test_a_validation_loader(self):
        lengths = []

        class Late(toy.ToyEpochTrainer):
            def after_train_epoch(self, epoch, summary_dict):
                self.val_loader = make_loader(toy.make_data(5), 5) if epoch else None

            def before_val_epoch(self, epoch):
                lengths.append(len(self.val_loader.dataset))

        Late(toy.make_config(), toy.make_session(self)).run()
        self.assertEqual(lengths, [5])


class Stream:
    """A loader that is none of torch's."""

    def __len__(self):
        return 3

    def __iter__(self):
        return iter([{"x": torch.ones(2, 4), "y": torch.ones(2, 1)}] * 3)


class TestForeignLoader(unittest.TestCase):
    """Anything with a length that yields batches."""

    def test_trains_and_validates(self):
        trainer = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
        trainer.register_loader(Stream(), Stream())
        trainer.run()
        self.assertEqual(trainer.total_iterations, 6)


class Tester:
    """Fails in its first run."""

    runs = 0

    def run(self, folder):
        Tester.runs += 1
        if Tester.runs == 1:
            raise ZeroDivisionError
        return {"score": 1.0}


class TestInitialEvaluation(unittest.TestCase):
    """An evaluation before training that was cut is made up for, once."""

    def test_once(self):
        config = toy.make_config(progress={"init_eval": True})
        trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
        trainer.register_tester(Tester())
        with self.assertRaises(ZeroDivisionError):
            trainer.run()
        folder = trainer.session.folder
        session = toy.make_session(self, folder / "checkpoints" / "latest.pt", folder)
        trainer = toy.ToyEpochTrainer(config, session)
        trainer.register_tester(Tester())
        trainer.run()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(sum(line["split"] == "eval" for line in lines), 1)

    def test_a_run_that_has_begun_says_that_it_is_too_late(self):
        first = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
        first.run()
        folder, lines = first.session.folder, []
        handler = logger.add(lines.append, format="{message}")
        self.addCleanup(logger.remove, handler)
        session = toy.make_session(self, folder / "checkpoints" / "latest.pt", folder)
        toy.ToyEpochTrainer(toy.make_config(progress={"init_eval": True}), session).run()
        self.assertIn("progress.init_eval: this run has begun already", "".join(lines))


if __name__ == "__main__":
    unittest.main()
