"""Runs with data loaders that are not the engine's, cut and resumed: exact, or warned of at the start."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from loguru import logger
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
)

from common.config.errors import UserError
from common.engine import EpochBasedTrainer, IterBasedTrainer
from common.loading.foreign import find_doubt
from tests import share_of
from tests.compare import differences
from tests.tests_common.engine import rich, test_cuts, toy

PROJECT = Path(__file__).parents[3]
SAMPLES, BATCHES = 40, 5


class Plain(Dataset):
    """Draws nothing."""

    def __init__(self):
        self.tensors = toy.make_data(SAMPLES).tensors

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return {name: tensor[index] for name, tensor in self.tensors.items()}


class Noisy(Plain):
    """Draws from all three generators."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        noise = 0.1 * torch.randn(4) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return {**sample, "x": sample["x"] + noise}


class OwnGenerator(Plain):
    """Draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.transforms = [{"noise": np.random.default_rng(3)}]

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, "x": sample["x"] + 0.1 * float(self.transforms[0]["noise"].random())}


class Stream(IterableDataset):
    """Yields samples."""

    def __iter__(self):
        data = Plain()
        return (data[i] for i in range(SAMPLES))

    def __len__(self):
        return SAMPLES


class ByHand:
    """Shuffles with NumPy, and is no loader of torch's."""

    def __init__(self):
        self.tensors = toy.make_data(SAMPLES).tensors

    def __len__(self):
        return BATCHES

    def __iter__(self):
        for rows in np.random.permutation(SAMPLES).reshape(BATCHES, -1):
            yield {name: tensor[torch.from_numpy(rows)] for name, tensor in self.tensors.items()}


class Stateful(ByHand):
    """Knows its place, and moves to the next epoch at the end of a pass."""

    epoch = place = 0

    def __iter__(self):
        order = np.random.default_rng(self.epoch).permutation(SAMPLES).reshape(BATCHES, -1)
        while self.place < BATCHES:
            self.place += 1
            rows = torch.from_numpy(order[self.place - 1])
            yield {name: tensor[rows] for name, tensor in self.tensors.items()}
        self.epoch, self.place = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state):
        self.epoch, self.place = state["epoch"], state["place"]


class Wanderer(Sampler):
    """Draws between the steps."""

    def __len__(self):
        return SAMPLES

    def __iter__(self):
        return (int(torch.randint(SAMPLES, ())) for _ in range(SAMPLES))


def seeded():
    """Return a generator."""
    return torch.Generator().manual_seed(7)


EXACT = {
    "in order": lambda: DataLoader(Plain(), 8),
    "shuffled": lambda: DataLoader(Noisy(), 8, shuffle=True),
    "with a generator": lambda: DataLoader(Noisy(), 8, shuffle=True, generator=seeded()),
    "a sampler's generator": lambda: DataLoader(Noisy(), 8, sampler=RandomSampler(range(SAMPLES), generator=seeded())),
    "a data set's generator": lambda: DataLoader(OwnGenerator(), 8, shuffle=True),
    "workers": lambda: DataLoader(Noisy(), 8, shuffle=True, num_workers=2),
    "weighted": lambda: DataLoader(Noisy(), 8, sampler=WeightedRandomSampler(torch.ones(SAMPLES), SAMPLES)),
    "batches": lambda: DataLoader(Noisy(), batch_sampler=BatchSampler(RandomSampler(range(SAMPLES)), 8, False)),
    "distributed": lambda: DataLoader(Noisy(), 8, sampler=DistributedSampler(Plain(), 1, 0)),
    "with a state": Stateful,
    "a list": lambda: list(DataLoader(Plain(), 8)),
}
DOUBTFUL = {
    "Wanderer may draw random numbers between the steps": lambda: DataLoader(Plain(), 8, sampler=Wanderer()),
    "persistent workers": lambda: DataLoader(Noisy(), 8, num_workers=1, persistent_workers=True),
    "Stream is read anew": lambda: DataLoader(Stream(), 8),
    "ByHand has no state_dict": ByHand,
}


class TestOwnLoaders(test_cuts.TestCutsBase):
    """Chains of runs that are cut twice, also where one pass ends, compared with the run that nobody cut."""

    def make(self, name, set_up, cut, i=0):
        """Return the trainer of the i-th part of a run, with its loader."""
        mode, kind = set_up

        class Own(rich.RichSteps):
            def __init__(self, config, session):
                super().__init__(config, session)
                self.register_loader(kind(), DataLoader(Plain(), 5))

        progress = {"iter_val": 4, "iter_save_checkpoint": 0, "iters_per_epoch": 7 if mode == "iter" else None}
        base = {"epoch": EpochBasedTrainer, "iter": IterBasedTrainer}[mode]
        with mock.patch.dict(rich.TRAINERS, {mode: type("Trainer", (Own, base), {})}):
            return super().make(name, {"mode": mode, "progress": progress}, cut, i)

    def test_go_on_exactly(self):
        cases = [(kind, mode) for kind in EXACT for mode in ("epoch", "iter")]
        draw = random.Random(1)
        for kind, mode in share_of(cases, 4):
            first, second = sorted(draw.sample(range(1, 3 * BATCHES - 1), 2))
            with self.subTest(kind, mode=mode, cuts=(first, second)):
                self.assertIsNone(find_doubt(EXACT[kind]()))
                set_up = mode, EXACT[kind]
                whole = self.train(f"whole {kind} {mode}", set_up)
                cut = self.train(f"cut {kind} {mode}", set_up, {"iteration": first}, {"iteration": second})
                self.assertEqual(list(differences(whole, cut)), [])

    def test_at_the_end_of_a_pass(self):
        for mode, cut in (("iter", {"iteration": 2 * BATCHES}), ("epoch", {"val_step": 8 * 4})):
            for kind in ("a sampler's generator", "with a state"):
                with self.subTest(kind, mode=mode):
                    set_up = mode, EXACT[kind]
                    whole = self.train(f"whole {kind} {mode}", set_up)
                    self.assertEqual(list(differences(whole, self.train(f"cut {kind} {mode}", set_up, cut))), [])

    def test_doubts_are_told_once_at_the_start(self):
        for doubt, kind in DOUBTFUL.items():
            lines = []
            handler = logger.add(lines.append, format="{message}", level="WARNING")
            self.make(doubt, ("epoch", kind), {}).run()
            logger.remove(handler)
            warned = [line for line in lines if "a resume within a pass may not be exact" in line]
            self.assertEqual(len(warned), 1, lines)
            self.assertIn(f"dataset.train: {doubt}" if "workers" not in doubt else doubt, warned[0])

    def test_a_state_that_no_checkpoint_can_hold(self):
        class Odd(Stateful):
            def state_dict(self):
                return super().state_dict() | {"path": Path("data")}

        lines = []
        handler = logger.add(lines.append, format="{message}", level="WARNING")
        self.addCleanup(logger.remove, handler)
        folder = self.train("odd", ("epoch", Odd), {"iteration": 7})
        self.assertTrue((folder / "checkpoints" / "final.pt").exists())
        self.assertIn("a resume within a pass is not exact", "".join(lines))

    def test_a_stream_without_a_length(self):
        class Endless(Stream):
            __len__ = None

        trainer = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
        trainer.register_loader(DataLoader(Endless(), 8), DataLoader(Endless(), 8))
        with self.assertRaisesRegex(UserError, "dataset.train: its loader has no length; set progress.iters_per_epoch"):
            trainer.run()
        for mode in (toy.ToyEpochTrainer, toy.ToyIterTrainer):
            trainer = mode(toy.make_config(progress={"iters_per_epoch": 3}), toy.make_session(self))
            trainer.register_loader(DataLoader(Endless(), 8), DataLoader(Endless(), 8))
            trainer.run()
            self.assertEqual(trainer.total_iterations, 6)


class TestSignals(unittest.TestCase):
    """SIGTERM to every process of a run whose loader has workers of its own."""

    SCRIPT = """
        import sys, time
        from dataclasses import replace
        from torch.utils.data import DataLoader
        from common.config.console import command
        from common.run.launch import launch
        from tests.tests_common.engine import rich
        from tests.tests_common.loading import test_own_loaders

        class Own(rich.RichEpochTrainer):
            def __init__(self, config, session):
                super().__init__(config, session)
                keys = {"num_workers": 2, "multiprocessing_context": sys.argv[2]}
                loader = DataLoader(test_own_loaders.Noisy(), 8, shuffle=True, **keys)
                self.register_loader(loader, self.val_loader)

            def after_train_step(self, *_):
                if self.total_iterations == 2:
                    print("ready", flush=True)
                    time.sleep(0.5)

        if __name__ == "__main__":
            config = rich.make_config(name="run")
            config = replace(config, dir=replace(config.dir, expr_dir=sys.argv[1]))
            with command(), launch(config) as session:
                Own(config, session).run()
    """

    def test_saves_and_exits_by_75(self):
        for context in share_of(("fork", "spawn"), 2):
            with self.subTest(context), tempfile.TemporaryDirectory() as folder:
                script = Path(folder) / "script.py"
                script.write_text(textwrap.dedent(self.SCRIPT))
                keys = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
                env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
                command = [sys.executable, str(script), folder, context]
                with subprocess.Popen(command, cwd=PROJECT, env=env, **keys) as process:
                    self.assertEqual(process.stdout.readline(), "ready\n")
                    os.killpg(process.pid, signal.SIGTERM)
                    time.sleep(0.1)
                    _, said = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 75, said)
                self.assertIn("saved after epoch 0 iteration 3", said)
                self.assertNotIn("Traceback", said)


if __name__ == "__main__":
    unittest.main()
