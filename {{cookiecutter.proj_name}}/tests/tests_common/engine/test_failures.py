"""Runs that end by an error: named plainly, saved where the state is sound, and gone on with exactly."""

import os
import signal
import unittest
from multiprocessing import Pipe

import torch

from common.config.errors import RunError, UserError
from common.data import make_loader
from common.run.launch import explain
from common.run.seed import seed_everything
from common.state.checkpoint import find_newest
from common.state.file import read_checkpoint
from tests import slow
from tests.compare import differences
from tests.tests_common.engine import rich, test_cuts, toy

HOOKS = ("before_train_step", "train_step", "after_backward", "after_train_step", "before_train_epoch")
SOUND = ("before_val_epoch", "val_step", "after_val_epoch")


def failing(trainer_class, hook, calls, error):
    """Return the trainer's class, whose hook fails when it is called for the n-th time."""

    class Failing(trainer_class):
        called = 0

    def fail(self, *arguments):
        self.called += 1
        if self.called == calls:
            raise error
        return getattr(super(Failing, self), hook)(*arguments)

    setattr(Failing, hook, fail)
    return Failing


class TestExceptions(test_cuts.TestCutsBase):
    """A mistake in the user's code, anywhere."""

    @slow
    def test_goes_on_exactly(self):
        for set_up in ({"mode": "epoch", "accumulate": 3}, {"mode": "iter"}):
            self.root /= set_up["mode"]
            whole = self.train("whole", set_up)
            for hook in HOOKS + SOUND:
                calls = {"before_train_epoch": 2, "before_val_epoch": 3, "after_val_epoch": 3}.get(hook, 24)
                with self.subTest(hook=hook, **set_up):
                    config, folder = rich.make_config(**set_up), self.root / hook
                    trainer_class = failing(rich.TRAINERS[set_up["mode"]], hook, calls, ZeroDivisionError("mine"))
                    seed_everything(config.trainer.seed)
                    trainer = trainer_class(config, toy.make_session(self, None, folder))
                    with self.assertRaisesRegex(ZeroDivisionError, "mine"):
                        trainer.run()
                    newest = find_newest(folder / "checkpoints")
                    saved = read_checkpoint(newest)["trainer"]["total_iterations"]
                    if hook in SOUND:
                        self.assertEqual(saved, trainer.total_iterations)
                    else:
                        self.assertLess(trainer.total_iterations - saved, 5)  # there was a save every 5 iterations
                    self.make(hook, set_up, {}, 1).run()
                    self.assertEqual(list(differences(whole, folder)), [])

    def test_a_misspelt_metric_costs_nothing(self):
        config = toy.make_config(checkpoint={"best_metric": "errror", "best_larger": False})
        trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
        trainer.after_val_epoch = lambda epoch, summary_dict: None  # might have added it
        with self.assertRaisesRegex(UserError, "did you mean 'error'"):
            trainer.run()
        latest = trainer.session.folder / "checkpoints" / "latest.pt"
        self.assertEqual(read_checkpoint(latest)["trainer"]["due"], ["validate"])
        session = toy.make_session(self, latest, trainer.session.folder)
        mended = toy.ToyEpochTrainer(
            toy.make_config(checkpoint={"best_metric": "error", "best_larger": False}), session
        )
        mended.run()
        self.assertEqual(mended.epoch, 2)


class TestNamed(unittest.TestCase):
    """Failures of the machine: one line that says what to change."""

    def fail(self, hook, error):
        trainer = failing(toy.ToyEpochTrainer, hook, 2, error)(toy.make_config(batch_size=6), toy.make_session(self))
        with self.assertRaises(RunError) as caught:
            trainer.run()
        self.assertNotIn("\n", str(caught.exception))
        return str(caught.exception)

    def test_out_of_memory(self):
        for error in (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
            MemoryError(),
        ):
            text = self.fail("train_step", error)
            self.assertRegex(text, "^epoch 0 iteration 1: out of memory .*lower dataset.train.batch_size.*precision")
            self.assertRegex(self.fail("val_step", error), "^validate, epoch 1 .*lower dataset.val.batch_size")

    def test_a_real_one(self):
        class Huge(toy.ToyEpochTrainer):
            def train_step(self, *arguments):
                torch.empty(2**60, dtype=torch.int8)

        with self.assertRaisesRegex(RunError, "out of memory"):
            Huge(toy.make_config(), toy.make_session(self)).run()

    def test_a_label_out_of_range(self):
        class Wrong(toy.ToyEpochTrainer):
            def train_step(self, *arguments):
                return {}, {"loss": torch.nn.functional.cross_entropy(torch.zeros(2, 5), torch.tensor([0, 7]))}

        with self.assertRaisesRegex(
            RunError, "^epoch 0 iteration 0: a label in a batch of dataset.train is none of .*7"
        ):
            Wrong(toy.make_config(), toy.make_session(self)).run()

    def test_a_worker_that_dies(self):
        class Dying(rich.Augmented):
            def __getitem__(self, index):
                if index == 7:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().__getitem__(index)

        trainer = rich.RichEpochTrainer(rich.make_config(), toy.make_session(self))
        trainer.register_loader(make_loader(Dying(), 8, worker=1, training=True))
        with self.assertRaisesRegex(RunError, "a process that loads data died .*lower worker"):
            trainer.run()

    def test_a_worker_that_dies_while_it_hands_over_a_batch(self):
        line, other = Pipe()
        other.close()
        try:
            line.recv()
        except EOFError as error:
            self.assertRegex(str(explain(error, "epoch 0", "x")), "^epoch 0: a process that loads data died .EOFError")
        own = ConnectionResetError("a server of the user's")
        self.assertIs(explain(own, "epoch 0", "x"), own)

    def test_others_stay_as_they_are(self):
        error = ZeroDivisionError("mine")
        self.assertIs(explain(error, "epoch 0", "batch_size"), error)
