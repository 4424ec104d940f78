"""This template's engine, with all its defaults on."""

from torch import nn
from work import CLIP, LOG_EVERY, LR

from common.engine import IterBasedTrainer
from common.launch import launch
from common.optim import build_optimizer, build_scheduler
from common.schema import Config, DirConfig, OptimConfig, ProgressConfig, TrainerConfig


class Trainer(IterBasedTrainer):
    """Meters, clipping, schedule, TensorBoard, jsonl, progress bar, checkpoints by the clock."""

    def __init__(self, config, session, work, loader):
        super().__init__(config, session)
        self.work = work
        self.register_loader(loader or work)
        self.register_model(work.model())
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))

    def _open_batches(self):
        batches = super()._open_batches()
        return batches if self.train_loader is self.work else self.work.timed(batches)

    def train_step(self, epoch, iteration, data_dict):
        """Return the logits and the loss."""
        logits = self.model(data_dict["x"])
        return {"logits": logits}, {"loss": nn.functional.cross_entropy(logits, data_dict["y"])}

    def val_step(self, epoch, iteration, data_dict):
        """Return the logits and the loss."""
        return self.train_step(epoch, iteration, data_dict)


def train(work, folder, loader=None, **arguments):
    """Train as train.py does; nothing is set but what all engines have in common."""
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
            epoch=1, iters_per_epoch=work.steps, iter_loss=LOG_EVERY, epoch_val=0, epoch_save_checkpoint=0
        ),
    )
    with launch(config) as session:
        trainer = Trainer(config, session, work, loader)
        trainer.run()
    return trainer.model
