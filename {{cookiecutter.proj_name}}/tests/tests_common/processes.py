"""One training on any number of processes with any strategy, and scripts run by torchrun."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from common.config.schema import DistConfig
from common.data import make_loader
from common.engine import EpochBasedTrainer
from common.log.metric import MetricSet
from common.optim.build import build_optimizer, build_scheduler
from common.run.distributed import get_data_rank, share_samples
from common.run.launch import Session, _leave_group, _open_on_rank_0, start_process_group
from common.run.seed import seed_everything
from common.run.strategy import choose_strategy, make_strategy
from common.state.experiment import open_experiment
from tests.tests_common.engine import toy

PROJECT = Path(__file__).parents[2]
BATCH = 12  # on all ranks together
SAMPLES = 53  # the last batch has 5: fewer on some ranks, and of 6 ranks one would have none


class Block(nn.Module):
    """Two layers with a shortcut around them."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    """A first layer and a head that no plan names, and blocks between them."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.first, self.head = nn.Linear(4, width), nn.Linear(width, 1)
        self.middle = nn.ModuleList([Block(width), Block(width)])

    def forward(self, x):
        x = self.first(x)
        for block in self.middle:
            x = block(x)
        return self.head(x)

    def blocks(self):
        return self.middle

    def tensor_parallel_plan(self):
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

        return {"middle.*.up": ColwiseParallel(), "middle.*.down": RowwiseParallel()}


class RegressionTrainer(EpochBasedTrainer):
    """A regression in float64; ``seen`` has the losses as they are logged."""

    def __init__(self, config, session):
        super().__init__(config, session)
        data = toy.make_data(SAMPLES, torch.float64)
        keys = {"seed": config.trainer.seed}
        self.register_loader(
            make_loader(data, config.batch_size, training=True, **keys),
            make_loader(toy.make_data(17, torch.float64), 5),
        )
        self.register_model(Net().double())
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))
        self.register_metric(MetricSet({"error": toy.Error()}))

    def train_step(self, epoch, iteration, data_dict):
        output_dict = {"y": self.model(data_dict["x"])}
        return output_dict, {"loss": nn.functional.mse_loss(output_dict["y"], data_dict["y"])}

    def val_step(self, epoch, iteration, data_dict):
        return self.train_step(epoch, iteration, data_dict)


def make_config(folder, name, processes=1, accumulate=1, epoch=10, resume=None, dist=None, optim=None, **keys):
    """Return the config of a run of 50 steps, whose batches are as large on any number of processes."""
    config = toy.make_config(
        {"accumulate": accumulate, "seed": 3, **keys},
        {
            "type": "AdamW",
            "lr": 0.01,
            "clip_gradients": 0.5,
            "ema_decay": 0.9,
            "lr_scheduler": {"type": "CosineAnnealingLR", "T_max": 20},
            **(optim or {}),
        },
        {"epoch": epoch, "iter_loss": 1},
        {"best_metric": "error", "best_larger": False},
        batch_size=BATCH // processes,
        gpu_ids=-1,
        name=name,
        resume=resume,
        dist=DistConfig(**{"timeout": 60, **(dist or {})}),
    )
    return replace(config, dir=replace(config.dir, expr_dir=str(folder)))


def train(config, trainer=RegressionTrainer):
    """Train on all ranks, which join at the first call and stay together; return the trainer."""
    device, processes = torch.device("cpu"), int(os.environ.get("WORLD_SIZE", 1))
    name = choose_strategy(config.dist, processes)
    if not dist.is_initialized():
        start_process_group(config, device, name)
        atexit.register(_leave_group)  # as launch does: a thread of gloo's may abort Python's end otherwise
    share_samples(1)
    strategy = make_strategy(name, config, device)
    folder, checkpoint = _open_on_rank_0(open_experiment, config)
    seed_everything(config.trainer.seed + get_data_rank())
    one = trainer(config, Session(device, folder, checkpoint, True, strategy))
    one.run()
    return one


def run_script(
    folder: Path, script: str, processes: int, *args: str, check: bool = True, restarts: int = 0
) -> subprocess.CompletedProcess:
    """Run a script, given as its text, by so many processes of torchrun."""
    file = folder / "script.py"
    file.write_text(textwrap.dedent(script))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["--max_restarts", str(restarts)]
    command = command if processes > 1 else [sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(file), *args], env=environment, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
