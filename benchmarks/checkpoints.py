"""What checkpoints cost, as ratios read in one run: python benchmarks/checkpoints.py [--megabytes 500].

1. How long a save keeps training waiting, beside a plain ``torch.save`` of the same state.
2. How long a run that goes on after 10,000 batches of an epoch takes to its first step, beside one that begins.
3. How long a sharded save keeps two processes waiting, beside a plain one that gathers the whole state on rank 0.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "{{cookiecutter.proj_name}}"))

from common.data import make_loader
from common.run.distributed import broadcast, get_rank
from common.state.checkpoint import Checkpointer
from common.state.file import read_plain
from tests.tests_common.engine import toy

BATCHES = 10_000


class State:
    """A part of a checkpoint with so many megabytes of weights."""

    def __init__(self, megabytes: int):
        self.weights = {f"{i}": torch.randn(250_000) for i in range(megabytes)}

    def state_dict(self) -> dict:
        """Return the weights."""
        return self.weights


def seconds(function, *arguments) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def measure_stall(megabytes: int, rounds: int = 7) -> None:
    """Save by turns, ours with the last write finished, and print the medians."""
    state = State(megabytes)
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = Checkpointer(Path(folder, "checkpoints"), {"state": state})
        plain, stalls, writes = [], [], []
        for _ in range(rounds):
            plain.append(seconds(torch.save, state.weights, Path(folder, "plain.pt")))
            stalls.append(seconds(checkpointer.save, "latest"))
            writes.append(seconds(checkpointer.wait))
        checkpointer.close()
    medians = [statistics.median(times) for times in (plain, stalls, writes)]
    print(f"{megabytes} MB: torch.save {medians[0]:.3f} s, stall of a save {medians[1]:.3f} s (first: {stalls[0]:.3f})")
    print(f"stall / torch.save = {medians[1] / medians[0]:.3f}")
    print(f"in the background, with digest and flush: {medians[2] / medians[0]:.2f} of torch.save")


class Stop(Exception):
    """The end of a run that has come to its first step."""


class Started(toy.ToyEpochTrainer):
    """Leaves after its first step."""

    def after_train_step(self, *_) -> None:
        """Leave."""
        raise Stop


def measure_resume(rounds: int = 5) -> None:
    """Begin and go on by turns, and print the difference of the medians."""
    test = unittest.TestCase()

    def make(trainer_class, checkpoint=None, folder=None):
        config = toy.make_config(progress={"iter_save_checkpoint": BATCHES, "iter_loss": 0}, batch_size=8)
        trainer = trainer_class(config, toy.make_session(test, checkpoint, folder))
        data = toy.make_data((BATCHES + 500) * 8)
        trainer.register_loader(make_loader(data, 8, training=True))
        return trainer

    class Cut(toy.ToyEpochTrainer):
        def before_train_step(self, epoch, iteration, data_dict):
            if iteration == BATCHES:
                raise Stop

    def start(trainer) -> None:
        try:
            trainer.run()
        except Stop:
            return

    cut = make(Cut)
    start(cut)
    latest = cut.session.folder / "checkpoints" / "latest.pt"
    fresh, resumed = [], []
    for _ in range(rounds):
        fresh.append(seconds(start, make(Started)))
        resumed.append(seconds(start, make(Started, latest, cut.session.folder)))
    difference = statistics.median(resumed) - statistics.median(fresh)
    print(f"to the first step after {BATCHES:,} batches: {difference:+.3f} s beside a fresh start")
    test.doCleanups()


def measure_shards(megabytes: int, rounds: int = 5) -> None:
    """Be one of two ranks: save by turns, and print the medians of rank 0."""
    dist.init_process_group("gloo")
    model = nn.Sequential(*(nn.Linear(500, 500, bias=False) for _ in range(megabytes)))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(broadcast(folder))
        checkpointer = Checkpointer(folder / "checkpoints", {"model": model}, sharded=True)

        def save_whole() -> None:
            whole = {name: tensor.full_tensor() for name, tensor in model.state_dict().items()}
            if get_rank() == 0:
                torch.save(whole, folder / "plain.pt")
            dist.barrier()

        plain, stalls = [], []
        for _ in range(rounds):
            plain.append(seconds(save_whole))
            stalls.append(seconds(checkpointer.save, "latest"))
            checkpointer.wait()
            dist.barrier()
        checkpointer.close()
        if get_rank() == 0:
            began = time.perf_counter()
            state = read_plain(folder / "checkpoints" / "latest.pt")["model"]
            took = time.perf_counter() - began
            assert all(state[name].equal(tensor) for name, tensor in read_plain(folder / "plain.pt").items())
            medians = [statistics.median(times) for times in (plain, stalls)]
            print(f"{megabytes} MB on 2 ranks: whole {medians[0]:.3f} s, stall of a sharded save {medians[1]:.3f} s")
            print(f"stall / whole = {medians[1] / medians[0]:.3f} (first: {stalls[0] / plain[0]:.3f})")
            print(f"read on one rank, with digests: {took / medians[0]:.2f} of it")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--as_rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        measure_shards(arguments.megabytes)
        sys.exit()
    torch.set_num_threads(2)
    measure_stall(arguments.megabytes)
    measure_resume()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    args = ["--as_rank", "--megabytes", str(arguments.megabytes)]
    subprocess.run([*torchrun, __file__, *args], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
