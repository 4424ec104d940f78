"""A run that is cut anywhere ends as if nothing had happened."""

import shutil
import signal
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from common.run.seed import seed_everything
from common.run.signals import Interrupted
from common.state.checkpoint import find_checkpoint
from tests import share_of
from tests.compare import differences
from tests.tests_common.engine import rich, toy

SET_UPS = [
    {"mode": mode, "accumulate": accumulate, "precision": precision}
    for mode in ("epoch", "iter")
    for accumulate in (1, 3)
    for precision in ("fp32", "bf16")
]


def cutting(trainer_class, iteration=None, val_step=None):
    """Return the trainer's class, with a SIGTERM in its midst: in that iteration, or in that validation step."""

    class Cutting(trainer_class):
        val_steps = 0

        def after_train_step(self, *_):
            if self.total_iterations + 1 == iteration:
                self.stop.handle_signal(signal.SIGTERM)

        def after_val_step(self, *_):
            self.val_steps += 1
            if self.val_steps == val_step:
                self.stop.handle_signal(signal.SIGTERM)

    return Cutting


class TestCutsBase(unittest.TestCase):
    """Runs of the rich trainer, whole and cut, in a folder of the test's own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        fast = mock.patch("os.fsync")  # nobody pulls the plug here
        fast.start()
        self.addCleanup(fast.stop)

    def train(self, name, set_up, *cuts):
        """Train to the end in as many runs as there are cuts, and one more; return the folder."""
        for i, cut in enumerate(cuts):
            self.cut_once(name, set_up, cut, i)
        self.make(name, set_up, {}, len(cuts)).run()
        return self.root / name

    def cut_once(self, name, set_up, cut, i=0):
        """Begin or go on with a run, until it is cut."""
        with self.assertRaises(Interrupted) as caught:
            self.make(name, set_up, cut, i).run()
        self.assertEqual(caught.exception.code, 75)

    def make(self, name, set_up, cut, i=0):
        """Return the trainer of the i-th part of a run."""
        folder, config = self.root / name, rich.make_config(**set_up)
        seed_everything(config.trainer.seed if i == 0 else 99 + i)
        session = toy.make_session(self, find_checkpoint(str(folder)) if i else None, folder)
        return cutting(rich.TRAINERS[config.trainer.mode], **cut)(config, session)

    def copy_of(self, name, other):
        """Return a copy of a run's folder."""
        return Path(shutil.copytree(self.root / name, self.root / other))


class TestCuts(TestCutsBase):
    """Compared with the run that nobody cut: weights, optimizer, average, random numbers, metrics, TensorBoard."""

    def check(self, set_up, *cuts):
        whole = self.root / "whole"
        if not whole.exists():
            self.train("whole", set_up)
        name = f"cut {cuts}"
        self.assertEqual(list(differences(whole, self.train(name, set_up, *cuts))), [], f"{set_up} {cuts}")

    def test_after_a_step(self):
        for i, set_up in enumerate(share_of(SET_UPS, 5)):
            self.root /= f"{i}"
            for iteration in share_of((1 + i, 18, 36 + i, 54), 2):
                with self.subTest(**set_up, iteration=iteration):
                    self.check(set_up, {"iteration": iteration})

    def test_twice_within_an_epoch(self):
        for i, set_up in enumerate(share_of(SET_UPS[::3], 2)):
            self.root /= f"{i}"
            with self.subTest(**set_up):
                self.check(set_up, {"iteration": 20 + i}, {"iteration": 23})

    def test_in_a_validation(self):
        # The 21 samples are five batches; the fourth validation is the one after the first epoch.
        for val_step in share_of((1, 4, 13, 17, 18), 3):
            with self.subTest(val_step=val_step):
                self.check({"mode": "epoch", "accumulate": 3}, {"val_step": val_step})

    def test_twice_in_the_same_validation(self):
        self.check({"mode": "iter"}, {"val_step": 13}, {"val_step": 2})

    def test_workers_do_not_matter(self):
        whole = self.train("whole", {"mode": "iter"})
        cut = self.train("cut", {"mode": "iter", "worker": 2}, {"iteration": 20}, {"iteration": 41})
        self.assertEqual(list(differences(whole, cut)), [])
