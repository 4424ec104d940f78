"""MMEngine."""

from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset
from work import CLIP, LOG_EVERY, LR


class Model(BaseModel):
    """The step."""

    def __init__(self, work):
        super().__init__()
        self.model = work.model()

    def forward(self, x, y, mode="loss"):
        """Return the loss."""
        return {"loss": nn.functional.cross_entropy(self.model(x), y)}


class Stream(Dataset):
    """The batches as its runner takes them: one after another, through a loader."""

    def __init__(self, work):
        self.work, self.batches = work, iter(work)

    def __getitem__(self, index):
        return next(self.batches)

    def __len__(self):
        return len(self.work)


def train(work, folder):
    """Train by iterations."""
    model = Model(work)
    Runner(
        model,
        str(folder),
        train_dataloader=DataLoader(Stream(work), batch_size=1, collate_fn=lambda batches: batches[0]),
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": work.steps, "val_interval": work.steps + 1},
        optim_wrapper={
            "type": "OptimWrapper",
            "optimizer": {"type": "Adam", "lr": LR},
            "clip_grad": {"max_norm": CLIP},
        },
        param_scheduler={"type": "CosineAnnealingLR", "T_max": work.steps, "by_epoch": False},
        default_hooks={"logger": {"type": "LoggerHook", "interval": LOG_EVERY}, "checkpoint": None},
        visualizer={"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]},
        default_scope="mmengine",
        log_level="ERROR",
    ).train()
    return model.model
