"""Lightning, with its progress bar and its checkpoints off."""

import logging
import warnings

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn, optim
from work import CLIP, LOG_EVERY, LR


class Module(LightningModule):
    """The steps and the optimizer."""

    def __init__(self, work):
        super().__init__()
        self.model, self.steps = work.model(), work.steps

    def training_step(self, batch, index):
        """Return the loss."""
        loss = nn.functional.cross_entropy(self.model(batch["x"]), batch["y"])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        """Log the loss and the accuracy."""
        logits = self.model(batch["x"])
        self.log("loss", nn.functional.cross_entropy(logits, batch["y"]))
        self.log("accuracy", (logits.argmax(1) == batch["y"]).float().mean())

    def configure_optimizers(self):
        """Return Adam and its schedule."""
        optimizer = optim.Adam(self.parameters(), LR)
        scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def make_trainer(work, folder):
    """Return the trainer."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    return Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=work.processes,
        strategy="ddp" if work.processes > 1 else "auto",
        logger=TensorBoardLogger(folder),
        log_every_n_steps=LOG_EVERY,
        gradient_clip_val=CLIP,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def train(work, folder):
    """Train one epoch."""
    module = Module(work)
    make_trainer(work, folder).fit(module, work)
    return module.model


def validate(work, folder):
    """Validate."""
    return make_trainer(work, folder).validate(Module(work), work, verbose=False)[0]
