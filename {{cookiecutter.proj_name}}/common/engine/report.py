"""What a run says at its start, on its way and at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from common.log.console import add_log
from common.run.distributed import get_data_size, get_world_size
from common.state.experiment import describe_device

if TYPE_CHECKING:
    from common.engine.trainer import Trainer


def start_banner(trainer: Trainer) -> None:
    """Log device, precision, parameters, set sizes, the effective batch size, and where results go."""
    config, folder = trainer.config.trainer, trainer.session.folder
    parameters = [parameter for model in trainer.models.values() for parameter in model.parameters()]
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    loader, name, parts = trainer.train_loader, trainer.session.strategy.name, get_data_size()
    batch = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", 1)
    strategy = "" if name == "none" else f" ({name})"
    mode = f", compiled ({config.compile})" if isinstance(config.compile, str) else ", compiled" * config.compile
    precision = config.precision + mode + ", channels last" * config.channels_last
    for line in (
        f"experiment   {folder}",
        f"device       {describe_device(trainer.device)} x {get_world_size()}{strategy}, {precision}",
        f"parameters   {total:,}, of which {trainable:,} trainable",
        f"samples      {_count(trainer.train_loader)} for training, {_count(trainer.val_loader)} for validation",
        f"batch        {batch * config.accumulate * parts}: {batch} samples x {config.accumulate} accumulated x "
        f"{parts} processes",
        f"length       {trainer.config.progress.epoch} epochs of {trainer.iterations_per_epoch:,} iterations, "
        f"from epoch {trainer.epoch}, iteration {trainer.iteration}",
        f"watch it     tensorboard --logdir {folder / 'event'}",
    ):
        add_log(line)


def _count(loader: Any) -> str:
    """Return how many samples a loader's set has, as text."""
    if loader is None:
        return "none"
    try:
        return f"{len(loader.dataset):,}"
    except (AttributeError, TypeError):
        return "a stream"


def closing_summary(trainer: Trainer, began: float) -> None:
    """Log the best result and its checkpoint, the time since ``began`` (``perf_counter``) and where everything is."""
    checkpoints = trainer.session.folder / "checkpoints"
    for best in trainer.trackers:
        if best.best is not None:
            is_lost = best.file in trainer.checkpointer.unwritten
            where = "whose checkpoint could not be written" if is_lost else f"in {checkpoints / best.file}.pt"
            add_log(f"best         {best.metric} {best.best:.4f}, {where}")
    add_log(f"final        {checkpoints / 'final.pt'}")
    add_log(f"time         {time.perf_counter() - began:.1f} s for {trainer.total_iterations:,} iterations")


def format_scalars(values: Mapping[str, float]) -> str:
    """Return named numbers as text: ``loss 0.1234, accuracy 0.98``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
