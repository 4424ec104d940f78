"""Losses and gradients that are not finite: their step is never made."""

import itertools
import json
import signal
import unittest
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from common.config.errors import RunError
from common.config.schema import DebugConfig, OptimizerConfig
from common.optim.build import build_optimizer
from common.optim.step import OptimizerStep
from common.run.signals import Interrupted
from tests import needs_room, slow
from tests.tests_common.engine import toy

OPTIMIZERS = ("SGD", "AdamW", "RMSprop", "Adagrad", "NAdam")
FAULTS = ("nan loss", "inf loss", "nan gradient", "inf gradient")


def poison(trainer_class, fault, at):
    """Return the trainer's class, in which one iteration's loss or one of its gradients is not finite."""
    value = torch.nan if "nan" in fault else torch.inf

    class Poisoned(trainer_class):
        def train_step(self, *arguments):
            output_dict, result_dict = super().train_step(*arguments)
            if "loss" in fault and self.total_iterations in at:
                result_dict["loss"] = result_dict["loss"] + value  # whose own gradient would be finite
            return output_dict, result_dict

        def after_backward(self, *_):
            if "gradient" in fault and self.total_iterations in at:
                self.model[0].bias.grad[1] = value

    return Poisoned


class TestTraining(unittest.TestCase):
    """Whole runs, by iterations and with everything that a step moves."""

    def train(self, fault, at, optimizer="AdamW", precision="fp32", policy="skip", accumulate=1):
        optim = {
            "type": optimizer,
            "lr": 0.01,
            "ema_decay": 0.9,
            "lr_scheduler": {"type": "StepLR", "step_size": 1, "gamma": 0.9},
        }
        config = toy.make_config(
            {"precision": precision, "non_finite": policy, "accumulate": accumulate}, optim, batch_size=4
        )
        trainer = poison(toy.ToyIterTrainer, fault, at)(config, toy.make_session(self))
        try:
            trainer.run()
        finally:
            self.trainer = trainer
        return trainer

    def assert_clean(self, trainer, steps):
        """Compare all that a step moves with the number of steps that were made, of which fp16's scale costs some."""
        if trainer.config.trainer.precision == "fp16":
            self.assertLessEqual(trainer.optimizer_steps, steps)
            steps = trainer.optimizer_steps
        updater = trainer.steps["main"]
        tensors = [*trainer.model.state_dict().values(), *updater.ema.state_dict()["weights"].values()]
        for state in trainer.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
            if "step" in state:
                self.assertEqual(int(state["step"]), steps)
        self.assertTrue(all(bool(tensor.isfinite().all()) for tensor in tensors))
        self.assertEqual((trainer.optimizer_steps, updater.ema.updates, updater.scheduler.last_epoch), (steps,) * 3)

    @slow
    def test_skip(self):
        for fault, optimizer, precision in itertools.product(FAULTS, OPTIMIZERS, ("fp32", "bf16", "fp16")):
            for at in ({0}, {11}, {4, 5}):
                with self.subTest(fault=fault, optimizer=optimizer, precision=precision, at=at):
                    self.assert_clean(self.train(fault, at, optimizer, precision), 12 - len(at))

    def test_a_loss_within_a_window_costs_the_window(self):
        self.assert_clean(self.train("nan loss", {4}, accumulate=3), 3)

    def test_stop(self):
        for fault, precision in itertools.product(FAULTS, ("fp32", "fp16")):
            if "gradient" in fault and precision == "fp16":
                continue  # there it is how the scaler works
            what = "the loss" if "loss" in fault else "a gradient"
            with (
                self.subTest(fault=fault, precision=precision),
                self.assertRaisesRegex(RunError, f"epoch 1 iteration 2: {what} of this batch is not finite"),
            ):
                self.train(fault, {7}, precision=precision, policy="stop")
            self.assert_clean(self.trainer, 7)
            saved = self.trainer.session.folder / "checkpoints" / "latest.pt"
            config = toy.make_config(
                {"non_finite": "skip", "precision": precision},
                {"type": "AdamW", "lr": 0.01, "ema_decay": 0.9,
                 "lr_scheduler": {"type": "StepLR", "step_size": 1, "gamma": 0.9}},
                batch_size=4,
            )  # fmt: skip
            trainer = toy.ToyIterTrainer(config, toy.make_session(self, saved, saved.parents[1]))
            trainer.run()
            self.assert_clean(trainer, 11)

    def test_a_run_that_only_skips_ends(self):
        config = toy.make_config({"non_finite": "skip"}, progress={"epoch": 60}, batch_size=4)
        trainer = poison(toy.ToyIterTrainer, "nan loss", range(20, 400))(config, toy.make_session(self))
        with self.assertRaisesRegex(RunError, "for the 100th time in a row"):
            trainer.run()
        self.assertEqual(trainer.total_iterations, 120)

    def cut_and_go_on(self, at, progress, cut_at):
        """Train by epochs with lost steps, cut the run after an iteration, and go on."""
        optim = {"lr_scheduler": {"type": "StepLR", "step_size": 1}}
        config = toy.make_config({"non_finite": "skip"}, optim, progress, batch_size=4)
        base = poison(toy.ToyEpochTrainer, "nan loss", at)

        class Cut(base):
            def after_train_step(self, *_):
                if self.total_iterations + 1 == cut_at:
                    self.stop.handle_signal(signal.SIGTERM)

        first = Cut(config, toy.make_session(self))
        with self.assertRaises(Interrupted):
            first.run()
        folder = first.session.folder
        return base(config, toy.make_session(self, folder / "checkpoints" / "latest.pt", folder))

    def test_a_schedule_remembers_the_steps_before_a_cut(self):
        trainer = self.cut_and_go_on(range(3, 6), {"epoch": 1}, cut_at=4)
        trainer.run()
        self.assertEqual(trainer.schedulers["main"].last_epoch, 1)

    def test_lost_steps_are_counted_across_a_cut(self):
        trainer = self.cut_and_go_on(range(20, 400), {"epoch": 60}, cut_at=70)
        with self.assertRaisesRegex(RunError, "for the 100th time in a row"):
            trainer.run()
        self.assertEqual(trainer.total_iterations, 120)

    @needs_room("diagnose")
    def test_debug_mode_keeps_the_batch(self):
        config = toy.make_config(batch_size=4, debug=DebugConfig(debug_mode=True))
        self.addCleanup(torch.autograd.set_detect_anomaly, False)
        trainer = poison(toy.ToyEpochTrainer, "nan gradient", {7})(config, toy.make_session(self))
        with self.assertRaisesRegex(RunError, "epoch 1 iteration 2: a gradient of this batch"):
            trainer.run()
        dump = torch.load(Path(trainer.session.folder, "debug", "epoch_001_iter_000001.pt"), weights_only=True)
        self.assertEqual(set(dump["data_dict"]), {"x", "y"})

    def test_the_curve_shows_it(self):
        trainer = self.train("nan loss", {3})
        lines = [json.loads(line) for line in (trainer.session.folder / "metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["loss"] for line in lines if line["split"] == "train"}
        self.assertEqual([step for step, loss in losses.items() if loss is None], [4])


class DeviceDecides(OptimizerStep):
    """An updater as on a GPU: the device skips a step by itself, and the host learns of it with the next one."""

    def __init__(self, *arguments, **keys):
        super().__init__(*arguments, **keys)
        self._device_decides = True

    def _send(self, finite):
        return finite.clone()

    def _receive(self, moved):
        return bool(moved)


class TestOnTheDevice(unittest.TestCase):
    """The device's way, on a CPU whose fused optimizers can do the same, beside the host's way."""

    def train(self, updater_class, optimizer, bad, precision="fp32"):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        config = OptimizerConfig(type=optimizer, lr=0.1, ema_decay=0.9, clip_gradients=1.0)
        optimizer = build_optimizer(config, [{"params": list(model.parameters())}])
        lost = []
        updater = updater_class(
            optimizer,
            StepLR(optimizer, 1, 0.5),
            config,
            model,
            precision,
            on_skipped=lambda place, _: lost.append(place),
        )
        updater.start_epoch(0)
        rates, data = [], torch.randn(8, 3)
        for i, x in enumerate(data):
            updater.backward(model(x).sum() * (torch.nan if i in bad else 1.0))
            updater.step((0, i))
            updater.step_scheduler()
            rates.append(updater.log_values()["learning_rate"])
        updater.settle()
        return updater, [value.clone() for value in model.state_dict().values()], rates, lost

    def test_both_ways_end_alike(self):
        for optimizer, bad, precision in itertools.product(("AdamW", "SGD"), ([0], [3, 4], [7]), ("fp32", "fp16")):
            with self.subTest(optimizer=optimizer, bad=bad, precision=precision):
                (one, weights, _, lost), (other, expected, _, expected_lost) = (
                    self.train(kind, optimizer, bad, precision) for kind in (DeviceDecides, OptimizerStep)
                )
                self.assertEqual(lost, expected_lost)
                self.assertEqual(lost, [(0, i) for i in bad])
                self.assertEqual((one.steps, one.ema.updates), (other.steps, other.ema.updates))
                self.assertEqual(one.log_values()["learning_rate"], other.log_values()["learning_rate"])
                torch.testing.assert_close(weights, expected, rtol=0, atol=0)
                torch.testing.assert_close(one.ema.state_dict(), other.ema.state_dict())

    def test_the_host_is_one_step_behind(self):
        rates = [self.train(kind, "AdamW", [], "fp32")[2] for kind in (DeviceDecides, OptimizerStep)]
        # The first step is decided by the host, since it allots the optimizer's state.
        self.assertEqual(rates[0][1:], rates[1][:-1])
