"""Same seed, same weights; and going on from a checkpoint."""

import json
import signal
import unittest

import torch

from common.config.errors import UserError
from common.config.schema import Config
from common.run.signals import Interrupted
from common.state.file import read_checkpoint
from tests.tests_common.engine import toy

RICH = {
    "optim": {
        "type": "AdamW",
        "lr": 0.01,
        "ema_decay": 0.9,
        "clip_gradients": 1.0,
        "warmup": 2,
        "lr_scheduler": {"type": "CosineAnnealingLR", "T_max": 10},
    },
    "batch_size": 5,
}


class TestReproducible(unittest.TestCase):
    """Two runs with one seed."""

    def train(self, seed, trainer=toy.ToyEpochTrainer):
        config = toy.make_config({"seed": seed}, **RICH)
        trainer = trainer(config, toy.make_session(self), dropout=0.3, seed=seed)
        trainer.run()
        return toy.weights_of(trainer)

    def test_equal_to_the_last_bit(self):
        for trainer in (toy.ToyEpochTrainer, toy.ToyIterTrainer):
            self.assertTrue(torch.equal(self.train(3, trainer), self.train(3, trainer)))

    def test_another_seed_differs(self):
        self.assertFalse(torch.equal(self.train(3), self.train(4)))


class TestOtherArguments(unittest.TestCase):
    """Learning rate, weight decay and the like can change within a run, with allow_changed."""

    def cut(self, **optim):
        """Return an experiment that was ended after its second epoch of four, and a function that resumes it."""
        session = toy.make_session(self)
        one = toy.ToyEpochTrainer(toy.make_config(optim=optim, progress={"epoch": 4}), session)
        one.after_train_epoch = lambda epoch, summary_dict: (
            one.stop.handle_signal(signal.SIGTERM) if epoch == 1 else None
        )
        with self.assertRaises(Interrupted):
            one.run()

        def resume(allow_changed=True, **changed):
            again = toy.make_session(self, session.folder / "checkpoints" / "latest.pt", session.folder)
            config = toy.make_config(
                optim={**optim, **changed}, progress={"epoch": 4}, checkpoint={"allow_changed": allow_changed}
            )
            trainer = toy.ToyEpochTrainer(config, again)
            trainer.prepare()
            return trainer

        return resume

    def test_the_state_stays_and_the_schedule_is_scaled(self):
        for lr_scheduler, warmup in (
            (None, 0),
            ({"type": "ExponentialLR", "gamma": 0.5}, 0),
            ({"type": "CosineAnnealingLR"}, 3),
            ({"type": "PolynomialLR", "power": 2.0}, 0),
            ({"type": "ConstantLR"}, 0),
        ):
            with self.subTest(lr_scheduler, warmup=warmup):
                resume = self.cut(type="Adam", lr_scheduler=lr_scheduler, warmup=warmup)
                with self.assertRaisesRegex(UserError, "optim.lr was 0.1, is 0.3.*--checkpoint.allow_changed true"):
                    resume(allow_changed=False, lr=0.3)
                same, other = resume(), resume(lr=0.3, weight_decay=0.25, args={"betas": [0.5, 0.9]})
                state = other.optimizer.state_dict()
                for i, one in same.optimizer.state_dict()["state"].items():
                    self.assertTrue(torch.equal(one["exp_avg_sq"], state["state"][i]["exp_avg_sq"]))
                self.assertEqual(
                    (state["param_groups"][0]["weight_decay"], *state["param_groups"][0]["betas"]), (0.25, 0.5, 0.9)
                )
                for _ in range(3):
                    rates = [trainer.optimizer.param_groups[0]["lr"] for trainer in (same, other)]
                    self.assertAlmostEqual(rates[1], 3 * rates[0])
                    for trainer in (same, other):
                        trainer.optimizer.step()
                        if trainer.schedulers:
                            trainer.schedulers["main"].step()

    def test_what_the_state_depends_on_is_refused(self):
        resume = self.cut(type="RMSprop")
        for args in ({"momentum": 0.9}, {"centered": True}):
            with self.assertRaisesRegex(UserError, f"optim: {next(iter(args))} of RMSprop cannot change within a run"):
                resume(args=args)
        with self.assertRaisesRegex(UserError, "another one: optim.type"):
            resume(type="SGD", lr=0.3)

    def test_what_has_no_effect_is_refused(self):
        resume = self.cut(type="SGD", lr_scheduler={"type": "OneCycleLR", "max_lr": 0.1})
        with self.assertRaisesRegex(
            UserError, "optim.lr was changed, but no parameter group of this run depends on it"
        ):
            resume(lr=0.3)


class TestLonger(unittest.TestCase):
    """A run that has ended and goes on."""

    def test_one_file_of_metrics_goes_on(self):
        config = toy.make_config(progress={"epoch": 1})
        first = toy.ToyEpochTrainer(config, toy.make_session(self))
        first.run()
        folder = first.session.folder
        session = toy.make_session(self, folder / "checkpoints" / "latest.pt", folder)
        toy.ToyEpochTrainer(toy.make_config(progress={"epoch": 3}), session).run()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["epoch"] for line in lines if line["split"] == "val"], [0, 1, 2])

    def test_its_schedule_is_planned_anew(self):
        optim = {"lr_scheduler": {"type": "CosineAnnealingLR"}}
        for trainer in (toy.ToyEpochTrainer, toy.ToyIterTrainer):
            rates = []
            for epochs in ([5], [2, 5]):  # in one go, and longer than it was meant to be
                folder = None
                for epoch in epochs:
                    config = toy.make_config(None, optim, {"epoch": epoch, "iter_loss": 1}, batch_size=6)
                    latest = folder and folder / "checkpoints" / "latest.pt"
                    one = trainer(config, toy.make_session(self, latest, folder))
                    one.run()
                    folder = one.session.folder
                lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
                rates.append([line["learning_rate"] for line in lines if line["split"] == "train"])
            self.assertEqual(len(rates[0]), 20)
            self.assertEqual(rates[0][8:], rates[1][8:])

    def test_what_your_own_trainer_remembers(self):
        class Remembering(toy.ToyEpochTrainer):
            seen = 0

            def after_train_step(self, *_):
                self.seen += 1

            def state_dict(self):
                return super().state_dict() | {"seen": self.seen}

            def load_state_dict(self, state):
                super().load_state_dict(state)
                self.seen = state["seen"]

        first = Remembering(toy.make_config(), toy.make_session(self))
        first.run()
        latest = first.session.folder / "checkpoints" / "latest.pt"
        second = Remembering(toy.make_config(progress={"epoch": 3}), toy.make_session(self, latest))
        second.run()
        self.assertEqual(second.seen, second.total_iterations)

    def test_with_other_settings(self):
        first = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
        first.run()
        session = toy.make_session(self, first.session.folder / "checkpoints" / "latest.pt")
        with self.assertRaisesRegex(
            UserError, r"latest.pt: this run would not go on exactly: optim.lr was 0.1, is 0.2"
        ):
            toy.ToyEpochTrainer(toy.make_config(optim={"lr": 0.2}), session).run()


class TestFineTune(unittest.TestCase):
    """progress.start_epoch 0: the weights alone."""

    def fine_tune(self, change=lambda state: None, **optim) -> toy.ToyEpochTrainer:
        first = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
        first.run()
        path = first.session.folder / "checkpoints" / "final.pt"
        state = read_checkpoint(path)
        change(state)
        torch.save(state, path)
        config: Config = toy.make_config(None, optim, progress={"start_epoch": 0})
        trainer = toy.ToyEpochTrainer(config, toy.make_session(self, path, goes_on=False), seed=5)
        trainer.prepare()
        self.first = first
        return trainer

    def test_takes_the_weights_and_begins_anew(self):
        trainer = self.fine_tune()
        self.assertTrue(torch.equal(toy.weights_of(trainer), toy.weights_of(self.first)))
        self.assertEqual((trainer.epoch, trainer.total_iterations), (0, 0))

    def test_the_average_begins_with_the_weights(self):
        trainer = self.fine_tune(ema_decay=0.9)
        average = torch.cat([value.flatten() for value in trainer.steps["main"].ema.state_dict()["weights"].values()])
        self.assertTrue(torch.equal(average, toy.weights_of(self.first)))

    def test_reports_each_key_that_does_not_fit(self):
        from loguru import logger

        def change(state):
            state["model"]["0.weight"] = torch.zeros(7, 4)
            state["model"]["extra"] = state["model"].pop("0.bias")

        lines = []
        handler = logger.add(lines.append, format="{message}")
        self.addCleanup(logger.remove, handler)
        self.fine_tune(change)
        text = "".join(lines)
        self.assertIn("0.weight: (7, 4) in the file, (3, 4) in the model", text)
        self.assertIn("extra: not in the model", text)
        self.assertIn("0.bias: not in the file", text)

    def test_nothing_fits(self):
        def change(state):
            state["model"] = {"other": torch.zeros(1)}

        with self.assertRaisesRegex(UserError, "none of its 1 weights fits the model Sequential"):
            self.fine_tune(change)

    def test_another_model_cannot_go_on(self):
        first = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
        first.run()
        session = toy.make_session(self, first.session.folder / "checkpoints" / "final.pt")
        second = toy.ToyEpochTrainer(toy.make_config(), session)
        second.register_model(torch.nn.Linear(4, 1))
        with self.assertRaisesRegex(UserError, "'model' does not fit this run"):
            second.run()
