"""Devices, ways out, and what several processes agree on."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

from loguru import logger

from common.config.console import command
from common.config.errors import UserError
from common.run.launch import choose_device, launch
from common.run.signals import Interrupted
from tests.tests_common.engine import toy

PROJECT = Path(__file__).parents[3]

RANKS = """
    import torch
    import torch.distributed as dist
    from common.run import distributed as d
    from common.log.metric import Meters
    from tests.tests_common.log.test_metric import Value

    dist.init_process_group("gloo")
    rank = d.get_rank()
    assert d.get_world_size() == 2
    assert d.broadcast({"from": rank}) == {"from": 0}
    assert d.gather(rank * 10) == [0, 10]
    for length in (2000, 2020, 2040, 10_000):  # around what one message holds, which the ranks' lengths may straddle
        assert d.gather(bytes(length + 20 * rank)) == [bytes(length), bytes(length + 20)]
    assert d.master_only(lambda: "wrote")() == ("wrote" if rank == 0 else None)
    meters, metric = Meters(), Value()
    for value, size in ((1.0, 4), (4.0, 1)) if rank == 0 else ((7.0, 2),):
        meters.update({"loss": torch.tensor(value)}, size)
        metric.update({"y": torch.full((size,), value)}, {})
    if rank == 1:
        meters.update({"only_here": 5.0})
    assert meters.summary() == {"loss": 22 / 7, "only_here": 5.0}, meters.summary()
    assert metric.compute() == 22 / 7
    d.barrier()
    dist.destroy_process_group()
"""


def torchrun(folder, *args):
    """Run a program on two processes."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *args]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)


class TestDevice(unittest.TestCase):
    """choose_device."""

    def choose(self, gpu_ids, gpus=0, rank=0, size=1):
        environment = {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
        with (
            mock.patch.dict(os.environ, environment),
            mock.patch("torch.cuda.is_available", lambda: gpus > 0),
            mock.patch("torch.cuda.device_count", lambda: gpus),
            mock.patch("torch.backends.mps.is_available", lambda: False),
        ):
            return str(choose_device(gpu_ids))

    def test_by_itself(self):
        self.assertEqual((self.choose(None), self.choose(None, gpus=4, rank=2, size=4)), ("cpu", "cuda:2"))

    def test_as_told(self):
        self.assertEqual((self.choose(-1, gpus=2), self.choose("-1"), self.choose(1, gpus=2)), ("cpu", "cpu", "cuda:1"))
        for given in ("2,3", [2, 3]):
            self.assertEqual(self.choose(given, gpus=4, rank=1, size=2), "cuda:3")

    def test_mistakes(self):
        with self.assertRaisesRegex(UserError, "--gpu_ids 1: found 1 GPUs for 1 processes"):
            self.choose(1, gpus=1)
        with self.assertRaisesRegex(UserError, "--gpu_ids 0,1: 2 GPUs for 1 processes on this machine"):
            self.choose("0,1", gpus=2)


class TestWaysOut(unittest.TestCase):
    """How a run ends."""

    def leave_by(self, error, context=command):
        """Return what an error makes of a command's run: the exception that leaves it, the console and the log."""
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.addCleanup(logger.remove)
        config = toy.make_config(name="run", gpu_ids=-1)
        config = replace(config, dir=replace(config.dir, expr_dir=temporary.name))
        with mock.patch("sys.stderr") as console, self.assertRaises(BaseException) as caught, context(), launch(config):
            raise error
        said = "".join(call.args[0] for call in console.write.call_args_list)
        return caught.exception, said, (Path(temporary.name) / "run" / "train.log").read_text()

    def test_a_users_mistake(self):
        left, said, log = self.leave_by(UserError("model: wrong"))
        self.assertEqual((type(left), left.code), (SystemExit, 2))
        self.assertRegex(said, r"^.+: error: model: wrong\n$")
        self.assertIn("Traceback", log)

    def test_an_interruption(self):
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        left, said, _ = self.leave_by(Interrupted(signal.SIGINT))
        self.assertEqual(left.code, 130)
        self.assertIn("ended by SIGINT, exit code 130", said)
        self.assertNotIn("Traceback", said)
        os.kill(os.getpid(), signal.SIGTERM)  # of a launcher, while this process leaves

    def test_a_fault_in_code_keeps_its_traceback(self):
        left, _, log = self.leave_by(ZeroDivisionError("here"))
        self.assertIsInstance(left, ZeroDivisionError)
        self.assertIn("ZeroDivisionError: here", log)


class TestTwoProcesses(unittest.TestCase):
    """What ranks tell one another."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def test_collectives(self):
        (self.folder / "ranks.py").write_text(textwrap.dedent(RANKS))
        done = torchrun(self.folder, str(self.folder / "ranks.py"))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_mistake_ends_all_ranks(self):
        (self.folder / "there" / "checkpoints").mkdir(parents=True)
        flags = ["--config", "configs/default.yaml", "--gpu_ids", "-1", "--dir.expr_dir", str(self.folder)]
        flags += ["--name", "there"]
        done = torchrun(self.folder, "train.py", *flags)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(done.stderr.count("train.py: rank 0: error: "), 1)
        self.assertEqual(done.stderr.count("not overwritten"), 1)
