"""This template's engine, with all its defaults on."""

from torch import nn
from work import CLIP, LOG_EVERY, LR, InMemory

from common.config.schema import Config, DirConfig, OptimConfig, ProgressConfig, TrainerConfig
from common.data import ArrayDataset, make_loader
from common.engine import IterBasedTrainer
from common.log.metric import MeanMetric, MetricSet
from common.optim.build import build_optimizer, build_scheduler
from common.run.launch import launch


class Accuracy(MeanMetric):
    """Share of right guesses."""

    def measure(self, output_dict, data_dict):
        """Return whether each sample is right."""
        return output_dict["logits"].argmax(1) == data_dict["y"]


class Trainer(IterBasedTrainer):
    """Meters, clipping, schedule, TensorBoard, jsonl, progress bar, checkpoints by the clock."""

    def __init__(self, config, session, work, train_loader, val_loader):
        super().__init__(config, session)
        self.work = work
        self.register_loader(train_loader, val_loader)
        self.register_model(work.model())
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))
        self.register_metric(MetricSet({"accuracy": Accuracy()}))
        self.summary = {}

    def _start_epoch(self, epoch):
        batches = super()._start_epoch(epoch)
        return batches if self.val_loader or self.train_loader is self.work else self.work.timed(batches)

    def train_step(self, epoch, iteration, data_dict):
        """Return the logits and the loss."""
        logits = self.model(data_dict["x"])
        return {"logits": logits}, {"loss": nn.functional.cross_entropy(logits, data_dict["y"])}

    def val_step(self, epoch, iteration, data_dict):
        """Return the logits and the loss."""
        return self.train_step(epoch, iteration, data_dict)

    def after_val_epoch(self, epoch, summary_dict):
        """Keep what was found."""
        self.summary = summary_dict


def make_own_loader(work):
    """Return the engine's loader of what torch's reads elsewhere; a set in memory is one of tensors."""
    dataset = ArrayDataset("data", **work.samples(200)) if work.source is InMemory else work.dataset()
    return make_loader(dataset, work.batch, work.worker, training=True)


def run(work, folder, train_loader, val_loader=None, steps=0, **arguments):
    """Run as train.py does; nothing is set but what all engines have in common."""
    on = work.feature
    config = Config(
        gpu_ids=-1,
        dir=DirConfig(expr_dir=str(folder)),
        trainer=TrainerConfig(
            mode="iter",
            accumulate=4 if on == "accumulate" else 1,
            precision="bf16" if on == "bf16" else "fp32",
            compile=on == "compile",
        ),
        optim=OptimConfig(
            type="Adam",
            lr=LR,
            clip_gradients=CLIP,
            lr_scheduler={"type": "CosineAnnealingLR"},
            ema_decay=0.999 if on == "ema" else 0.0,
            args=arguments,
        ),
        progress=ProgressConfig(
            epoch=1, iters_per_epoch=steps, iter_loss=LOG_EVERY, epoch_val=1, epoch_save_checkpoint=0
        ),
    )
    with launch(config) as session:
        trainer = Trainer(config, session, work, train_loader, val_loader)
        trainer.run()
        return trainer


def train(work, folder, **arguments):
    """Train as train.py does."""
    train_loader = make_own_loader(work) if work.source else work
    return run(work, folder, train_loader, steps=work.steps, **arguments).forms.bare["main"]


def validate(work, folder):
    """Make a step that changes nothing, and validate."""
    return run(work, folder, [next(work.batches())], work, steps=1, lr=0.0).summary
