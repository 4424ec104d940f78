"""What a trainer is made of before it runs: checked, joined, and named for its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from common.config.errors import UserError, nearest
from common.log.console import add_log
from common.optim.step import OptimizerStep
from common.run.distributed import gather
from common.run.models import MAIN, part_name
from common.run.seed import RandomState
from common.state.checkpoint import Checkpointer
from common.state.experiment import describe_run
from common.state.resume_check import ResumeCheck
from common.state.weights import load_matching, read_weights

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
    for name, scheduler in trainer.schedulers.items():
        if isinstance(scheduler, ReduceLROnPlateau):
            _check_plateau(trainer, scheduler, "optim" if name == MAIN else f"optim.named.{name}")
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


def _check_plateau(trainer: Trainer, scheduler: ReduceLROnPlateau, where: str) -> None:
    """Refuse a schedule that has no validation result to watch, or watches it in the wrong direction."""
    checkpoint = trainer.config.checkpoint
    if checkpoint.best_metric is None or trainer.val_loader is None:
        raise UserError(f"{where}.lr_scheduler: ReduceLROnPlateau needs checkpoint.best_metric and dataset.val")
    mode = "max" if checkpoint.best_larger else "min"
    if scheduler.mode != mode:
        raise UserError(f"{where}.lr_scheduler.mode: expected {mode}, as best_larger says, found {scheduler.mode}")


def take_weights(trainer: Trainer, checkpoint: Path) -> None:
    """Load the weights of a checkpoint where they fit, and report the others."""
    for name, model in trainer.forms.bare.items():
        weights = read_weights(checkpoint, part_name("model", name))
        for line in load_matching(model, weights, str(checkpoint), trainer.session.strategy):
            add_log(line, "WARNING")
    add_log(f"fine-tuning from the weights of {checkpoint}")


def make_steps(trainer: Trainer) -> dict[str, OptimizerStep]:
    """Join each optimizer with its schedule, its config section and its model."""
    return {
        name: OptimizerStep(
            optimizer,
            trainer.schedulers.get(name),
            trainer.optim_config(name),
            trainer.forms.bare[name],
            trainer.config.trainer.precision,
            only=len(trainer.optimizers) > 1,
            on_skipped=trainer.note_skipped,
            strategy=trainer.session.strategy,
        )
        for name, optimizer in trainer.optimizers.items()
    }


def make_checkpointer(trainer: Trainer) -> Checkpointer:
    """Name the parts of a checkpoint, in the order in which they are loaded."""
    strategy, config = trainer.session.strategy, trainer.config.checkpoint
    # continuity, updater, selection and monitor are what ResumeCheck, OptimizerStep, BestTracker and Curves once were.
    parts: dict[str, Any] = {"continuity": ResumeCheck(trainer.config)}
    parts |= {part_name("model", name): strategy.model_part(model) for name, model in trainer.forms.bare.items()}
    for name, step in trainer.steps.items():
        parts |= {part_name(kind, name): part for kind, part in step.parts().items()}
    parts |= {"trainer": trainer, "meters": trainer.meters, "selection": trainer.best, "monitor": trainer.curves}
    parts["random"] = RandomState()
    folder, stops = trainer.session.folder / "checkpoints", config.on_error == "stop"
    about = describe_run(trainer.config, trainer.train_loader)
    return Checkpointer(folder, parts, config.keep_last, stops, config.sharded, strategy, about)
