"""What a run says at its start, on its way and at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch.utils.data import DataLoader

from common.engine.trainer_parts import TrainerParts
from common.log.console import add_log
from common.run.distributed import get_data_size, get_world_size
from common.state.experiment import describe_device


def start_banner(trainer: TrainerParts) -> None:
    """Log device, precision, parameters, set sizes, the batch size that counts, and where results go."""
    config = trainer.config
    parameters = [parameter for model in trainer.models.values() for parameter in model.parameters()]
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    batch, accumulate, parts = batch_size_of(trainer.train_loader), config.trainer.accumulate, get_data_size()
    strategy = "" if trainer.session.strategy == "none" else f" ({trainer.session.strategy})"
    compiled, layout = config.trainer.compile, ", channels last" if config.trainer.channels_last else ""
    mode = f", compiled ({compiled})" if isinstance(compiled, str) else ", compiled" if compiled else ""
    precision = config.trainer.precision + mode + layout
    for line in (
        f"experiment   {trainer.session.folder}",
        f"device       {describe_device(trainer.device)} x {get_world_size()}{strategy}, {precision}",
        f"parameters   {total:,}, of which {trainable:,} trainable",
        f"samples      {count_of(trainer.train_loader)} for training, {count_of(trainer.val_loader)} for validation",
        f"batch        {batch * accumulate * parts}: {batch} samples x {accumulate} accumulated x {parts} processes",
        f"length       {config.progress.epoch} epochs of {trainer.iterations_per_epoch:,} iterations, "
        f"from epoch {trainer.epoch}, iteration {trainer.iteration}",
        f"watch it     tensorboard --logdir {trainer.session.folder / 'event'}",
    ):
        add_log(line)


def count_of(loader: DataLoader | None) -> str:
    """Return how many samples a loader's set has, as text."""
    if loader is None:
        return "none"
    try:
        return f"{len(loader.dataset):,}"
    except (AttributeError, TypeError):
        return "a stream"


def batch_size_of(loader: DataLoader) -> int:
    """Return how many samples a full batch of this process holds; 1 if the loader does not tell."""
    return getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", 1)


def closing_summary(trainer: TrainerParts, began: float) -> None:
    """Log the best result and its checkpoint, the time taken and where everything is.

    Args:
        trainer: The trainer that has run.
        began: ``time.perf_counter()`` at its start.
    """
    checkpoints, selection = trainer.session.folder / "checkpoints", trainer.selection
    if selection.best is not None:
        add_log(
            f"best         {selection.metric} {selection.best:.4f}, in {checkpoints / f'best_{selection.metric}.pt'}"
        )
    add_log(f"final        {checkpoints / 'final.pt'}")
    add_log(f"time         {time.perf_counter() - began:.1f} s for {trainer.total_iterations:,} iterations")


def format_scalars(values: Mapping[str, float]) -> str:
    """Return named numbers as text: ``loss 0.1234, accuracy 0.98``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
