"""What a trainer is made of before it runs: checked, joined, named for its checkpoints, and told in the log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from common.config.errors import UserError, nearest
from common.config.registry import find_room
from common.config.schema import OptimizerConfig
from common.data.batches import starts_anywhere
from common.data.loader import batch_size_of, unless_empty
from common.log.best import BestTracker, Trackers
from common.log.console import add_log
from common.optim.step import OptimizerStep
from common.run.distributed import gather, get_data_size, get_world_size
from common.run.seed import RandomState
from common.run.strategy import MAIN, part_name
from common.state.checkpoint import Checkpointer
from common.state.experiment import describe_device, describe_run
from common.state.file import load_matching, read_weights
from common.state.resume_check import ResumeCheck

if TYPE_CHECKING:
    from common.engine.trainer import Trainer


def check_registered(trainer: Trainer) -> None:
    """Raise a UserError if a trainer lacks a part, or its parts do not fit together. Collective."""
    models, config = trainer.models, trainer.config
    if not models or not trainer.optimizers:
        raise UserError(f"{type(trainer).__name__}: register a model, an optimizer and a loader before run()")
    for name in trainer.optimizers:
        if name not in models:
            raise UserError(f"{type(trainer).__name__}: optimizer '{name}' has no model, {nearest(name, models)}")
    if MAIN not in trainer.optimizers:
        _check_unused(trainer)
    for name, scheduler in trainer.schedulers.items():
        if isinstance(scheduler, ReduceLROnPlateau):
            _check_plateau(trainer, scheduler, "optim" if name == MAIN else f"optim.named.{name}")
    if not starts_anywhere(trainer.train_loader):
        room = find_room("loading.foreign")
        if doubt := room.find_doubt(trainer.train_loader) if room else "the room common/loading is missing":
            ways = "make_loader and a loader with state_dict and load_state_dict resume exactly"
            add_log(f"dataset.train: {doubt}, so that a resume within a pass may not be exact; {ways}", "WARNING")
    for name in config.metric.keys() & {*config.loss, "loss"}:
        raise UserError(f"metric.{name}: the loss or a term of it has this name, choose another")
    counts = gather(trainer.iterations_per_epoch)
    if len(set(counts)) > 1:
        found = ", ".join(map(str, counts))
        raise UserError(
            f"dataset.train: the processes have {found} batches; set progress.iters_per_epoch to one of them"
        )
    if trainer.val_loader is None and config.trainer.early_stop:
        raise UserError("trainer.early_stop: needs dataset.val, found none")
    if trainer.val_loader is None and config.checkpoint.best_metric:
        add_log("checkpoint.best_metric selects nothing, since there is no dataset.val", "WARNING")


def _check_unused(trainer: Trainer) -> None:
    """Refuse keys of ``optim`` that no optimizer reads; warn of them where a run goes on that has had them before."""
    default = OptimizerConfig()
    unused = [key for key in vars(default) if getattr(trainer.config.optim, key) != getattr(default, key)]
    if unused:
        instead = f"set them in {', '.join(f'optim.named.{name}' for name in trainer.optimizers)}"
        text = f"optim.{', optim.'.join(unused)}: without effect, since each optimizer has a name; {instead}"
        if trainer.session.checkpoint is None or not trainer.session.goes_on:
            raise UserError(text)
        add_log(text, "WARNING")


def _check_plateau(trainer: Trainer, scheduler: ReduceLROnPlateau, where: str) -> None:
    """Refuse a schedule that has no validation result to watch, or watches it in the wrong direction."""
    checkpoint = trainer.config.checkpoint
    if checkpoint.best_metric is None or trainer.val_loader is None:
        raise UserError(f"{where}.lr_scheduler: ReduceLROnPlateau needs checkpoint.best_metric and dataset.val")
    mode = "max" if trainer.best.larger else "min"
    if scheduler.mode != mode:
        metric = trainer.best.metric
        raise UserError(f"{where}.lr_scheduler.mode: expected {mode}, as is best for {metric}, found {scheduler.mode}")


def make_trackers(trainer: Trainer) -> list[BestTracker]:
    """Return what follows each ``checkpoint.best_metric``; raise a UserError if nobody knows when one is better."""
    config, keep = trainer.config.trainer, trainer.config.checkpoint
    names: list[Any] = keep.best_metric if isinstance(keep.best_metric, list) else [keep.best_metric]
    losses = [*trainer.config.loss, *(part_name("loss", name) for name in trainer.optimizers)]
    known: dict[Any, bool | None] = {**dict.fromkeys(losses, False), **trainer.metric.directions()}
    trackers = []
    for name in names or [None]:
        larger = known.get(name) if keep.best_larger is None else keep.best_larger
        if larger is None and name and unless_empty(trainer.val_loader) is not None:
            hint = nearest(name, known)
            raise UserError(f"checkpoint.best_larger: is a larger '{name}' better? Expected true or false; {hint}")
        if known.get(name) not in (None, larger):
            add_log(f"checkpoint.best_larger: {larger} keeps the worst {name}".lower(), "WARNING")
        trackers.append(BestTracker(name, bool(larger), config.early_stop, config.early_stop_delta, keep.keep_best))
    return trackers


def take_weights(trainer: Trainer, checkpoint: Path) -> None:
    """Load the weights of a checkpoint where they fit, and report the others."""
    for name, model in trainer.forms.bare.items():
        weights = read_weights(checkpoint, part_name("model", name))
        for line in load_matching(model, weights, str(checkpoint), trainer.session.strategy):
            add_log(line, "WARNING")
    add_log(f"fine-tuning from the weights of {checkpoint}")


def resume(trainer: Trainer, checkpoint: Path) -> None:
    """Restore every part from a checkpoint; optimizers' arguments that the config has changed keep their new values."""
    fresh = {name: [dict(group) for group in optimizer.param_groups] for name, optimizer in trainer.optimizers.items()}
    trainer.checkpointer.load(checkpoint)
    for name, argument in sorted(trainer.checkpointer.parts["continuity"].changed_arguments, key=str):
        trainer.steps[name or MAIN].take_argument(argument, fresh[name or MAIN])
    add_log(f"resuming from {checkpoint}")


def make_steps(trainer: Trainer) -> dict[str, OptimizerStep]:
    """Join each optimizer with its schedule, its config section and its model."""
    steps: dict[str, OptimizerStep] = {}
    on_skipped, strategy = partial(trainer.stop.note_skipped, steps), trainer.session.strategy
    precision, only = trainer.config.trainer.precision, len(trainer.optimizers) > 1
    length, epochs = trainer.schedule_length, trainer.config.progress.epoch
    for name, optimizer in trainer.optimizers.items():
        scheduler, section, model = trainer.schedulers.get(name), trainer.optim_config(name), trainer.forms.bare[name]
        steps[name] = OptimizerStep(
            optimizer, scheduler, section, model, precision, only, on_skipped, strategy, length, epochs
        )
    return steps


def make_checkpointer(trainer: Trainer) -> Checkpointer:
    """Name the parts of a checkpoint, in the order in which they are loaded."""
    strategy, config = trainer.session.strategy, trainer.config.checkpoint
    # continuity, updater, selection and monitor are what ResumeCheck, OptimizerStep, BestTracker and Curves once were.
    parts: dict[str, Any] = {"continuity": ResumeCheck(trainer.config)}
    parts |= {part_name("model", name): strategy.model_part(model) for name, model in trainer.forms.bare.items()}
    for name, step in trainer.steps.items():
        parts |= {part_name(kind, name): part for kind, part in step.parts().items()}
    parts |= {"trainer": trainer, "meters": trainer.meters, "selection": Trackers(trainer.trackers)}
    parts |= {"monitor": trainer.curves, "random": RandomState()}
    folder, stops = trainer.session.folder / "checkpoints", config.on_error == "stop"
    about = describe_run(trainer.config, trainer.train_loader)
    return Checkpointer(folder, parts, config.keep_last, stops, config.sharded, strategy, about)


def start_banner(trainer: Trainer) -> None:
    """Log device, precision, parameters, set sizes, the effective batch size, and where results go."""
    config, folder = trainer.config.trainer, trainer.session.folder
    parameters = [parameter for model in trainer.models.values() for parameter in model.parameters()]
    total = sum(parameter.numel() for parameter in parameters)
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    loader, name, parts = trainer.train_loader, trainer.session.strategy.name, get_data_size()
    batch = batch_size_of(loader)
    strategy = "" if name == "none" else f" ({name})"
    mode = f", compiled ({config.compile})" if isinstance(config.compile, str) else ", compiled" * config.compile
    precision = config.precision + mode + ", channels last" * config.channels_last
    length = f"{trainer.config.progress.epoch} epochs of {trainer.iterations_per_epoch:,} iterations"
    add_log(f"experiment   {folder}")
    add_log(f"device       {describe_device(trainer.device)} x {get_world_size()}{strategy}, {precision}")
    add_log(f"parameters   {total:,}, of which {trainable:,} trainable")
    add_log(f"samples      {_count(loader)} for training, {_count(trainer.val_loader)} for validation")
    factors = f"{batch} samples x {config.accumulate} accumulated x {parts} processes"
    add_log(f"batch        {batch * config.accumulate * parts}: {factors}")
    add_log(f"length       {length}, from epoch {trainer.epoch}, iteration {trainer.iteration}")
    add_log(f"watch it     tensorboard --logdir {folder / 'event'}")


def _count(loader: Any) -> str:
    try:
        return "none" if loader is None else f"{len(loader.dataset):,}"
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
