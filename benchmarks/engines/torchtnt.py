"""TorchTNT."""

from torch import device, nn, optim
from torchtnt.framework.auto_unit import AutoUnit
from torchtnt.framework.train import train as run
from torchtnt.utils.loggers import TensorBoardLogger
from work import CLIP, LOG_EVERY, LR


class Unit(AutoUnit):
    """The step, the optimizer and what is logged."""

    def __init__(self, work, folder):
        self.steps = work.steps
        self.logger, self.total = TensorBoardLogger(str(folder)), 0.0
        super().__init__(
            module=work.model(), device=device("cpu"), clip_grad_norm=CLIP, step_lr_interval="step", strategy=None
        )

    def compute_loss(self, state, data):
        """Return the loss and the logits."""
        logits = self.module(data["x"])
        return nn.functional.cross_entropy(logits, data["y"]), logits

    def configure_optimizers_and_lr_scheduler(self, module):
        """Return Adam and its schedule."""
        optimizer = optim.Adam(module.parameters(), LR)
        return optimizer, optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)

    def on_train_step_end(self, state, data, step, results):
        """Log every so many steps."""
        self.total += results.loss.item()
        if (step + 1) % LOG_EVERY == 0:
            self.logger.log_dict({"loss": self.total / LOG_EVERY, "lr": self.lr_scheduler.get_last_lr()[0]}, step)
            self.total = 0.0


def train(work, folder):
    """Train one epoch."""
    unit = Unit(work, folder)
    run(unit, work, max_epochs=1)
    return unit.module
