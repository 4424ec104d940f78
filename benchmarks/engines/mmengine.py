"""MMEngine."""

import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset
from work import CLIP, LOG_EVERY, LR


class Model(BaseModel):
    """The steps."""

    def __init__(self, work):
        super().__init__()
        self.model = work.model()

    def forward(self, x, y, mode="loss"):
        """Return the loss, or what the metric needs."""
        logits = self.model(x)
        if mode == "loss":
            return {"loss": nn.functional.cross_entropy(logits, y)}
        loss = nn.functional.cross_entropy(logits, y, reduction="none")
        return [{"loss": loss, "right": logits.argmax(1) == y}]


class Means(BaseMetric):
    """The mean loss and the share of right guesses."""

    def process(self, data_batch, data_samples):
        """Keep a batch's."""
        self.results += data_samples

    def compute_metrics(self, results):
        """Return the means."""
        return {name: torch.cat([one[name] for one in results]).float().mean().item() for name in ("loss", "right")}


class Stream(Dataset):
    """The batches as its runner takes them: one after another, through a loader."""

    def __init__(self, work):
        self.work, self.batches = work, iter(work)

    def __getitem__(self, index):
        return next(self.batches)

    def __len__(self):
        return len(self.work)


def make_runner(work, folder, **keys):
    """Return the runner."""
    model = Model(work)
    return Runner(
        MMDistributedDataParallel(model) if work.processes > 1 else model,
        str(folder),
        default_hooks={"logger": {"type": "LoggerHook", "interval": LOG_EVERY}, "checkpoint": None},
        visualizer={"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]},
        default_scope="mmengine",
        log_level="ERROR",
        **keys,
    )


def make_loader(work):
    """Return the stream in a loader."""
    return DataLoader(Stream(work), batch_size=1, collate_fn=lambda batches: batches[0])


def train(work, folder):
    """Train by iterations."""
    if work.processes > 1:
        dist.init_process_group("gloo")  # its own way there needs a GPU
    runner = make_runner(
        work,
        folder,
        train_dataloader=make_loader(work),
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": work.steps, "val_interval": work.steps + 1},
        optim_wrapper={
            "type": "OptimWrapper",
            "optimizer": {"type": "Adam", "lr": LR},
            "clip_grad": {"max_norm": CLIP},
        },
        param_scheduler={"type": "CosineAnnealingLR", "T_max": work.steps, "by_epoch": False},
        launcher="pytorch" if work.processes > 1 else "none",
    )
    runner.train()
    return runner.model


def validate(work, folder):
    """Validate by its metric."""
    keys = {"val_dataloader": make_loader(work), "val_cfg": {}, "val_evaluator": Evaluator(Means())}
    return make_runner(work, folder, **keys).val()
