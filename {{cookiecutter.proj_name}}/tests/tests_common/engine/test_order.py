"""The order of events in both trainers and both testers."""

import unittest
from unittest import mock

import torch
from torch.optim.lr_scheduler import StepLR

from common.config.errors import UserError
from common.data import make_loader
from common.engine import BatchTester, SingleTester
from tests.tests_common.engine import toy

STEP = "before_train_step train_step after_backward optimizer_step after_train_step log".split()
VAL_STEP = "before_val_step val_step after_val_step".split()
VALIDATION = ["before_val_epoch", *VAL_STEP, *VAL_STEP, "after_val_epoch"]


def recorded(name, events):
    """Return a hook that notes its name."""
    return lambda self, *arguments: events.append(name)


def recording(trainer_class, events):
    """Return the trainer's class with every event of the documents noted in a list."""

    class Recording(trainer_class):
        before_train_epoch = recorded("before_train_epoch", events)
        before_train_step = recorded("before_train_step", events)
        after_backward = recorded("after_backward", events)
        after_train_step = recorded("after_train_step", events)
        after_train_epoch = recorded("after_train_epoch", events)
        before_val_epoch = recorded("before_val_epoch", events)
        before_val_step = recorded("before_val_step", events)
        after_val_step = recorded("after_val_step", events)
        after_val_epoch = recorded("after_val_epoch", events)

        def train_step(self, *arguments):
            events.append("train_step")
            return toy.ToySteps.train_step(self, *arguments)

        def val_step(self, *arguments):
            events.append("val_step")
            return toy.ToySteps.train_step(self, *arguments)

        def _log_iteration(self, *arguments):
            events.append("log")
            super()._log_iteration(*arguments)

        def _save(self, *names, **keys):
            events.append(f"save {' '.join(names)}")
            super()._save(*names, **keys)

    return Recording


class TestTrainers(unittest.TestCase):
    """Events of two epochs of two iterations each."""

    def run_and_record(self, trainer_class):
        events = []
        config = toy.make_config(
            optim={"lr_scheduler": {"type": "StepLR", "step_size": 1}}, progress={"iter_loss": 1}, batch_size=12
        )
        trainer = recording(trainer_class, events)(config, toy.make_session(self))
        trainer.val_loader = make_loader(toy.make_data(10), 5)
        trainer.optimizer.register_step_post_hook(lambda *arguments: events.append("optimizer_step"))
        step = StepLR.step

        def scheduler_step(scheduler):
            events.append("scheduler_step")
            step(scheduler)

        with mock.patch.object(StepLR, "step", scheduler_step):
            trainer.run()
        return events

    def test_epoch_based(self):
        epoch = ["before_train_epoch", *STEP, *STEP, "scheduler_step", "after_train_epoch", *VALIDATION, "save latest"]
        self.assertEqual(self.run_and_record(toy.ToyEpochTrainer), [*epoch, *epoch, "save final"])

    def test_iter_based(self):
        steps = [*STEP, "scheduler_step"] * 2
        epoch = ["before_train_epoch", *steps, "after_train_epoch", *VALIDATION, "save latest"]
        self.assertEqual(self.run_and_record(toy.ToyIterTrainer), [*epoch, *epoch, "save final"])

    def test_schedule_lengths(self):
        config = toy.make_config({"accumulate": 4}, None, {"epoch": 3}, batch_size=4)
        self.assertEqual(toy.ToyEpochTrainer(config, toy.make_session(self)).schedule_length, 3)
        trainer = toy.ToyIterTrainer(config, toy.make_session(self))
        self.assertEqual(trainer.schedule_length, 6)
        trainer.run()
        self.assertEqual(trainer.optimizer_steps, 6)

    def test_hooks_see_what_the_documents_say(self):
        seen = {}

        class Watched(toy.ToyEpochTrainer):
            def after_train_step(self, epoch, iteration, data_dict, output_dict, result_dict):
                seen["step"] = (epoch, iteration, set(data_dict), set(output_dict), set(result_dict))

            def after_train_epoch(self, epoch, summary_dict):
                seen["train"] = (epoch, set(summary_dict))

            def after_val_epoch(self, epoch, summary_dict):
                seen["val"] = (epoch, set(summary_dict), torch.is_grad_enabled(), self.model.training)

        Watched(toy.make_config(batch_size=12), toy.make_session(self)).run()
        self.assertEqual(seen["step"], (1, 1, {"x", "y"}, {"y"}, {"loss"}))
        self.assertEqual(seen["train"], (1, {"loss"}))
        self.assertEqual(seen["val"], (1, {"loss", "error"}, False, False))


class TestTesters(unittest.TestCase):
    """Events and results of the testers."""

    def run_and_record(self, tester_class, batch_size):
        events, cases = [], []

        class Recording(tester_class):
            before_test_epoch = recorded("before_test_epoch", events)
            before_test_step = recorded("before_test_step", events)
            after_test_step = recorded("after_test_step", events)
            after_test_epoch = recorded("after_test_epoch", events)

            def test_step(self, iteration, data_dict):
                events.append("test_step")
                return {"y": self.model(data_dict["x"])}

            def eval_step(self, iteration, data_dict, output_dict):
                events.append("eval_step")
                cases.append((data_dict["x"].shape, output_dict["y"].shape))
                return {"error": (data_dict["y"] - output_dict["y"]).abs().mean()}

        tester = Recording(toy.make_config(), toy.make_session(self))
        data = toy.make_data(5)
        tester.register_model(torch.nn.Linear(4, 1))
        tester.register_loader(make_loader(data, batch_size))
        summary_dict = tester.run()
        with torch.no_grad():
            expected = (data.tensors["y"] - tester.model(data.tensors["x"])).abs().mean().item()
        self.assertAlmostEqual(summary_dict["error"], expected, places=5)
        return events, cases

    def test_single(self):
        events, cases = self.run_and_record(SingleTester, 1)
        step = ["before_test_step", "test_step", "eval_step", "after_test_step"]
        self.assertEqual(events, ["before_test_epoch", *step * 5, "after_test_epoch"])
        self.assertEqual(set(cases), {((1, 4), (1, 1))})

    def test_single_takes_no_batches(self):
        with self.assertRaisesRegex(UserError, "^dataset.eval.batch_size: Recording .* expected 1, found 2"):
            self.run_and_record(SingleTester, 2)

    def test_batch_evaluates_single_cases(self):
        events, cases = self.run_and_record(BatchTester, 3)
        batch, case = ["before_test_step", "test_step"], ["eval_step", "after_test_step"]
        self.assertEqual(events, ["before_test_epoch", *batch, *case * 3, *batch, *case * 2, "after_test_epoch"])
        self.assertEqual(cases, [((4,), (1,))] * 5)
