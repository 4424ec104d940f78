"""TorchTNT."""

from torch import device, nn, optim
from torchtnt.framework.auto_unit import AutoUnit
from torchtnt.framework.evaluate import evaluate
from torchtnt.framework.train import train as run
from torchtnt.utils.env import init_from_env
from torchtnt.utils.loggers import TensorBoardLogger
from work import CLIP, LOG_EVERY, LR


class Unit(AutoUnit):
    """The steps, the optimizer and what is logged."""

    def __init__(self, work, folder):
        self.steps = work.steps
        if work.processes > 1:
            init_from_env(device_type="cpu")
        self.logger = TensorBoardLogger(str(folder))
        self.total, self.right, self.count = 0.0, 0, 0
        super().__init__(
            module=work.model(),
            device=device("cpu"),
            clip_grad_norm=CLIP,
            step_lr_interval="step",
            strategy="ddp" if work.processes > 1 else None,
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

    def on_eval_step_end(self, state, data, step, loss, outputs):
        """Sum the loss and the right guesses."""
        self.total += loss.item() * len(outputs)
        self.right += (outputs.argmax(1) == data["y"]).sum().item()
        self.count += len(outputs)


def train(work, folder):
    """Train one epoch."""
    unit = Unit(work, folder)
    run(unit, work, max_epochs=1)
    unit.logger.close()
    return unit.module


def validate(work, folder):
    """Evaluate."""
    unit = Unit(work, folder)
    evaluate(unit, work)
    unit.logger.close()
    return {"loss": unit.total / unit.count, "accuracy": unit.right / unit.count}
