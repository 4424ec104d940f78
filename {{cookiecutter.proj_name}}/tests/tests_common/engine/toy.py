"""A trainer small enough to be checked by hand, for the engine's tests."""

import tempfile
from pathlib import Path

import torch
from torch import nn

from common.config.schema import CheckpointConfig, Config, OptimConfig, ProgressConfig, TrainerConfig
from common.data import ArrayDataset, make_loader
from common.engine import EpochBasedTrainer, IterBasedTrainer
from common.log.metric import MeanMetric, MetricSet
from common.optim.build import build_optimizer, build_scheduler
from common.run.launch import Session
from common.run.seed import seed_everything


def make_config(trainer=None, optim=None, progress=None, checkpoint=None, **keys):
    """Return a config of a short run in which nothing happens but training."""
    progress = {"epoch": 2, "iter_loss": 2, "epoch_save_checkpoint": 0, "save_progress_val": False, **(progress or {})}
    return Config(
        trainer=TrainerConfig(**(trainer or {})),
        optim=OptimConfig(**{"type": "SGD", "lr": 0.1, **(optim or {})}),
        progress=ProgressConfig(**progress),
        checkpoint=CheckpointConfig(**(checkpoint or {})),
        **keys,
    )


def make_session(test, checkpoint=None, folder=None, goes_on=True):
    """Return a session on the CPU in a folder that lasts as long as the test."""
    if folder is None:
        temporary = tempfile.TemporaryDirectory()
        test.addCleanup(temporary.cleanup)
        folder = Path(temporary.name) / "experiment"
    return Session(torch.device("cpu"), folder, checkpoint, goes_on)


def make_data(samples=24, dtype=torch.float32):
    """Return a regression set: four features and their noisy sum."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=generator, dtype=dtype)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(samples, 1, generator=generator, dtype=dtype)
    return ArrayDataset("data", x=x, y=y)


class Error(MeanMetric):
    """Absolute error."""

    def measure(self, output_dict, data_dict):
        return (output_dict["y"] - data_dict["y"]).abs().squeeze(1)


class ToySteps:
    """A linear regression."""

    def __init__(self, config, session, samples=24, dtype=torch.float32, dropout=0.0, seed=0):
        super().__init__(config, session)
        seed_everything(seed)
        data = make_data(samples, dtype)
        self.register_loader(
            make_loader(data, config.batch_size, training=True, seed=config.trainer.seed), make_loader(data, 5)
        )
        self.register_model(nn.Sequential(nn.Linear(4, 3), nn.Dropout(dropout), nn.Linear(3, 1)).to(dtype))
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))
        self.register_metric(MetricSet({"error": Error()}))

    def train_step(self, epoch, iteration, data_dict):
        output_dict = {"y": self.model(data_dict["x"])}
        return output_dict, {"loss": nn.functional.mse_loss(output_dict["y"], data_dict["y"])}

    def val_step(self, epoch, iteration, data_dict):
        return self.train_step(epoch, iteration, data_dict)


class ToyEpochTrainer(ToySteps, EpochBasedTrainer):
    """By epochs."""


class ToyIterTrainer(ToySteps, IterBasedTrainer):
    """By iterations."""


def weights_of(trainer, name="main"):
    """Return a copy of a model's weights as one vector."""
    return torch.cat([value.flatten().clone() for value in trainer.forms.bare[name].state_dict().values()])
