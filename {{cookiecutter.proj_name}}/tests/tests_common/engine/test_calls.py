"""What a step costs, without a timer: the calls that Python makes in it, and how often it waits for the device."""

import sys
import unittest
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.data import ArrayDataset, make_loader
from common.engine import EpochBasedTrainer
from common.optim.build import build_optimizer, build_scheduler
from common.optim.step import OptimizerStep
from common.run.launch import Session
from tests.tests_common.engine import toy

FIRST, LAST = 60, 160  # the iterations that are watched; the 100th and the 150th are logged
LIMIT = 300  # calls a step; the usual loop by hand makes 492, the fastest one known 216


class Watched(EpochBasedTrainer):
    """A tiny classifier with all defaults: meters, clipping, a schedule, TensorBoard, jsonl, checkpoints."""

    def __init__(self, config, session):
        super().__init__(config, session)
        data = ArrayDataset("data", x=torch.randn(32 * 200, 64), y=torch.randint(10, (32 * 200,)))
        self.register_loader(make_loader(data, 32, training=True, pin_memory=session.device.type == "cuda"))
        self.register_model(nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))

    def train_step(self, epoch, iteration, data_dict):
        output = self.model(data_dict["x"])
        return {"logits": output}, {"loss": nn.functional.cross_entropy(output, data_dict["y"])}

    def val_step(self, *arguments):
        return self.train_step(*arguments)


def make(test, device="cpu"):
    """Return a trainer with the defaults that cost something."""
    config = toy.make_config(
        optim={"type": "Adam", "lr": 1e-3, "clip_gradients": 1.0, "lr_scheduler": {"type": "CosineAnnealingLR"}},
        progress={"epoch": 1, "iter_loss": 50},
    )
    session = toy.make_session(test)
    return Watched(config, Session(torch.device(device), session.folder, None))


class TestCalls(unittest.TestCase):
    def test_a_step_makes_few(self):
        trainer, calls = make(self), []
        run_iteration = trainer.run_iteration

        def count(frame, event, argument):
            if event in ("call", "c_call"):
                calls.append(event)

        def watch(*arguments):
            if trainer.total_iterations == FIRST:
                sys.setprofile(count)
            elif trainer.total_iterations == LAST:
                sys.setprofile(None)
            run_iteration(*arguments)

        trainer.run_iteration = watch
        self.addCleanup(sys.setprofile, None)
        trainer.run()
        made = len(calls) / (LAST - FIRST)
        self.assertGreater(made, 100)  # they were counted
        self.assertLessEqual(made, LIMIT)


class Behind(OptimizerStep):
    """An updater as on a GPU, which computes behind the host: to read a value there is to wait."""

    def __init__(self, *arguments, **keys):
        super().__init__(*arguments, **keys)
        self._device_decides, self._on_cpu = True, False

    def _send(self, finite):
        return finite

    def _receive(self, moved):
        return True


class Reads(TorchDispatchMode):
    """Counts the values that the host reads from tensors."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class TestSyncs(unittest.TestCase):
    def test_a_step_that_is_not_logged_reads_no_value(self):
        with mock.patch("common.engine.parts.OptimizerStep", Behind):
            trainer, reads = make(self), {}
            step = trainer.run_iteration

            def watched(epoch, iteration, data_dict):
                with Reads() as mode:
                    step(epoch, iteration, data_dict)
                reads[iteration + 1] = mode.count

            trainer.run_iteration = watched
            trainer.run()
        logged = {step: reads.pop(step) for step in (50, 100, 150, 200)}
        self.assertTrue(all(logged.values()))
        del reads[1]  # in which the optimizer allots its state, and so the host decides
        self.assertEqual(set(reads.values()), {0})

    @unittest.skipUnless(torch.cuda.is_available(), "needs a GPU")
    def test_a_step_that_is_not_logged_waits_for_nothing(self):
        trainer = make(self, "cuda")
        step = trainer.run_iteration

        def watched(epoch, iteration, data_dict):
            quiet = FIRST < iteration < LAST and (iteration + 1) % 50
            torch.cuda.set_sync_debug_mode("error" if quiet else "default")
            step(epoch, iteration, data_dict)
            torch.cuda.set_sync_debug_mode("default")

        trainer.run_iteration = watched
        self.addCleanup(torch.cuda.set_sync_debug_mode, "default")
        trainer.run()
        self.assertEqual(trainer.total_iterations, 200)
