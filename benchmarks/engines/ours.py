"""This template's engine, with all its defaults on."""

from torch import nn
from work import CLIP, LOG_EVERY, LR

from common.engine import IterBasedTrainer
from common.launch import launch
from common.optim import build_optimizer, build_scheduler
from common.schema import Config, DirConfig, OptimConfig, ProgressConfig, TrainerConfig


class Trainer(IterBasedTrainer):
    """Meters, clipping, schedule, TensorBoard, jsonl, progress bar, checkpoints by the clock."""

    def __init__(self, config, session, work, **optimizer):
        super().__init__(config, session)
        self.register_loader(work)
        self.register_model(work.model())
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))

    def train_step(self, epoch, iteration, data_dict):
        """Return the logits and the loss."""
        logits = self.model(data_dict["x"])
        return {"logits": logits}, {"loss": nn.functional.cross_entropy(logits, data_dict["y"])}

    def val_step(self, epoch, iteration, data_dict):
        """Return the logits and the loss."""
        return self.train_step(epoch, iteration, data_dict)


def make_config(work, folder, **arguments):
    """Return the config of a workload: nothing set but what all engines have in common."""
    schedule = {"type": "CosineAnnealingLR"}
    return Config(
        gpu_ids=-1,
        dir=DirConfig(expr_dir=str(folder)),
        trainer=TrainerConfig(mode="iter"),
        optim=OptimConfig(type="Adam", lr=LR, clip_gradients=CLIP, lr_scheduler=schedule, args=arguments),
        progress=ProgressConfig(epoch=1, iter_loss=LOG_EVERY, epoch_save_checkpoint=0),
    )


def train(work, folder, **arguments):
    """Train as train.py does."""
    with launch(make_config(work, folder, **arguments)) as session:
        trainer = Trainer(session=session, config=make_config(work, folder, **arguments), work=work)
        trainer.run()
    return trainer.model
