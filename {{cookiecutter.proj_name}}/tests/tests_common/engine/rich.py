"""A trainer with all that a resume can get wrong: augmentation, dropout, batch-norm, EMA, warm-up, validation."""

import random

import numpy as np
import torch
from torch import nn

from common.data import BaseDataset, make_loader
from common.engine import EpochBasedTrainer, IterBasedTrainer
from common.log.metric import MetricSet
from common.optim.build import build_optimizer, build_scheduler
from tests.tests_common.engine import toy

EPOCHS, ITERATIONS = 3, 18
SAMPLES = ITERATIONS * 8 - 3  # the last batch of an epoch is short


class Augmented(BaseDataset):
    """Samples that draw from all three generators."""

    def __init__(self, samples=SAMPLES):
        super().__init__("data")
        self.tensors = toy.make_data(samples).tensors

    def __len__(self):
        return len(self.tensors["x"])

    def __getitem__(self, index):
        x = self.tensors["x"][index] + 0.1 * torch.randn(4) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return {"x": x, "y": self.tensors["y"][index]}


def make_config(mode="epoch", accumulate=1, worker=0, precision="fp32", progress=None, checkpoint=None, **keys):
    """Return the config of a run of 54 iterations."""
    return toy.make_config(
        {"mode": mode, "accumulate": accumulate, "precision": precision, "seed": 5},
        {
            "type": "AdamW",
            "lr": 0.01,
            "ema_decay": 0.9,
            "clip_gradients": 1.0,
            "warmup": 2,
            "lr_scheduler": {"type": "CosineAnnealingLR"},
        },
        {"epoch": EPOCHS, "iter_loss": 4, "iter_val": 7, "iter_save_checkpoint": 5, **(progress or {})},
        {"best_metric": "error", "best_larger": False, "keep_last": 2, **(checkpoint or {})},
        **{"batch_size": 8, "worker": worker, "gpu_ids": -1, **keys},
    )


class RichSteps(toy.ToySteps):
    """A small network whose steps draw from all three generators, too."""

    def __init__(self, config, session, persistent_workers=True):
        super(toy.ToySteps, self).__init__(config, session)
        keys = {"worker": config.worker, "persistent_workers": persistent_workers, "seed": config.trainer.seed}
        self.register_loader(
            make_loader(Augmented(), config.batch_size, training=True, **keys), make_loader(Augmented(21), 5, **keys)
        )
        generator = torch.Generator().manual_seed(3)
        self.register_model(
            nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
        )
        for parameter in self.model.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))
        self.register_metric(MetricSet({"error": toy.Error()}))

    def before_train_epoch(self, epoch):
        torch.rand(3)

    def train_step(self, epoch, iteration, data_dict):
        x = data_dict["x"] * (random.random() + np.random.rand() + torch.rand(()))
        output_dict = {"y": self.model(x)}
        return output_dict, {"loss": nn.functional.mse_loss(output_dict["y"].float(), data_dict["y"])}


class RichEpochTrainer(RichSteps, EpochBasedTrainer):
    """By epochs."""


class RichIterTrainer(RichSteps, IterBasedTrainer):
    """By iterations."""


TRAINERS = {"epoch": RichEpochTrainer, "iter": RichIterTrainer}
