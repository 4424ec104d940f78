"""A trainer's parts: registered by the subclass, bound before the loop, saved in checkpoints."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from common.config.errors import UserError, nearest
from common.config.schema import Config, OptimizerConfig
from common.data.batches import find_sizes_at, find_transform
from common.diagnose.profiled_steps import ProfiledSteps
from common.engine.base_tester import BaseTester
from common.engine.best import Selection
from common.engine.hooks import Metrics, TrainerHooks
from common.log.console import add_log
from common.log.curves import open_monitor
from common.log.meters import Meters
from common.log.progress import Progress
from common.optim.step import Place, Scheduler, Updater
from common.run.device import in_precision
from common.run.distributed import gather, get_data_size, get_rank, get_world_size, is_distributed
from common.run.launch import Session
from common.run.seed import RandomState
from common.run.signals import StopRequest
from common.sharding.parallel import gpu_numbers, place, wrap
from common.sharding.tensors import whole_model
from common.state.checkpoint import Checkpointer
from common.state.experiment import back_up, look_at_space
from common.state.resume_check import Continuity
from common.state.weights import load_matching, read_weights

MAIN = "main"
_STATE = ("epoch", "iteration", "total_iterations", "due", "keep", "drop")


def part_name(kind: str, name: str) -> str:
    """Return a part's key in a checkpoint: ``model``, or ``model.generator`` for one of several."""
    return kind if name == MAIN else f"{kind}.{name}"


class TrainerParts(TrainerHooks):
    """Everything a trainer is made of. ``BaseTrainer`` adds the loop.

    Args:
        config: The whole config.
        session: Device, folder and checkpoint, from ``launch``.
    """

    def __init__(self, config: Config, session: Session):
        self.config, self.session, self.device = config, session, session.device
        self.train_loader: DataLoader
        self.val_loader: DataLoader | None = None
        self.models: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.schedulers: dict[str, Scheduler] = {}
        self.metric: Metrics | None = None
        self.tester: BaseTester | None = None
        self.epoch = self.iteration = self.total_iterations = 0
        self.due: list[str] = []  # what is to be done before the next iteration: validate, evaluate
        self.keep: list[str] = []  # and then the names to save under
        self.drop: list[str] = []  # and those to delete
        self._stop_request, self._failure, self._is_sound = StopRequest(), None, True
        self._lost_at: Place | None = None
        self.meters = Meters()
        checkpoint, trainer = config.checkpoint, config.trainer
        self.selection = Selection(
            checkpoint.best_metric,
            checkpoint.best_larger,
            trainer.early_stop,
            trainer.early_stop_delta,
            checkpoint.keep_best,
        )

    def register_model(self, model: nn.Module, name: str = MAIN) -> None:
        """Register a model, then its optimizer: its parameters are moved to the device, and sharded if so configured.

        Steps and hooks find it in ``self.model`` or ``self.models``.
        """
        self.models[name] = place(model, self.device, self.session.mesh, self.config)

    def register_optimizer(self, optimizer: Optimizer, name: str = MAIN) -> None:
        """Register the optimizer of the model of the same name."""
        self.optimizers[name] = optimizer

    def register_scheduler(self, scheduler: Scheduler | None, name: str = MAIN) -> None:
        """Register the learning rate schedule of the optimizer of the same name; None is none."""
        if scheduler is not None:
            self.schedulers[name] = scheduler

    def register_loader(self, train_loader: DataLoader, val_loader: DataLoader | None = None) -> None:
        """Register the training and validation loaders; without the latter there is no validation."""
        self.train_loader, self.val_loader = train_loader, val_loader

    def register_metric(self, metric: Metrics) -> None:
        """Register metrics over the whole validation set, updated after each ``val_step``."""
        self.metric = metric

    def register_tester(self, tester: BaseTester) -> None:
        """Register the tester that evaluates every ``progress.epoch_eval`` epochs."""
        self.tester = tester

    @property
    def model(self) -> nn.Module:
        """The only model."""
        return self.models[MAIN]

    @property
    def optimizer(self) -> Optimizer:
        """The only optimizer."""
        return self.optimizers[MAIN]

    @property
    def optimizer_steps(self) -> int:
        """The optimizer steps made so far; those that were not made for a value that is not finite do not count."""
        return max(updater.steps for updater in self._updaters.values())

    @property
    def iterations_per_epoch(self) -> int:
        """``progress.iters_per_epoch``, or one pass over the training set."""
        return self.config.progress.iters_per_epoch or len(self.train_loader)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: the model's own ``parameter_groups()``, or one of all.

        Override it to give parts of a model an ``lr`` of their own.
        """
        if hasattr(model, "parameter_groups"):
            return model.parameter_groups()
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def optim_config(self, name: str = MAIN) -> OptimizerConfig:
        """Return an optimizer's config section: ``optim``, or ``optim.named.<name>``.

        Raises:
            UserError: No section of that name.
        """
        if name == MAIN:
            return self.config.optim
        if name not in self.config.optim.named:
            raise UserError(f"optim.named.{name}: no such section, {nearest(name, self.config.optim.named)}")
        return self.config.optim.named[name]

    def _prepare(self) -> None:
        """Bind everything that the loop needs, once, and take over the checkpoint."""
        config, folder, checkpoint = self.config, self.session.folder, self.session.checkpoint
        self._check_registered()
        if checkpoint and not self.session.goes_on:
            self._take_weights(checkpoint)
        self._wrap_models()
        self._make_updaters()
        self._bind_steps()
        self._monitor = open_monitor(folder)
        stop_on_error = config.checkpoint.on_error == "stop"
        self._checkpointer = Checkpointer(
            folder / "checkpoints",
            self._parts(),
            config.checkpoint.keep_last,
            stop_on_error,
            config.checkpoint.sharded,
        )
        if checkpoint and self.session.goes_on:
            self._checkpointer.load(checkpoint)
            add_log(f"going on from {checkpoint}")
        back_up(config, folder, self.device)
        look_at_space(folder, self._bare.values(), stop_on_error)
        self._progress = Progress(config.progress.epoch * self.iterations_per_epoch, self.total_iterations)
        self._advance_bar = self._progress.update

    def _take_weights(self, checkpoint: Path) -> None:
        """Take over the weights of a checkpoint, as far as they fit, and report the others."""
        for name, model in self.models.items():
            weights = read_weights(checkpoint, part_name("model", name))
            for line in load_matching(model, weights, str(checkpoint)):
                add_log(line, "WARNING")
        add_log(f"fine-tuning from the weights of {checkpoint}")

    def _wrap_models(self) -> None:
        """Spread the models over the processes, and compile them for training and for validation."""
        self._bare = self.models
        gpus, strategy = gpu_numbers(self.config.gpu_ids), self.session.strategy
        spread = {name: wrap(model, self.device, strategy, gpus) for name, model in self._bare.items()}
        self._spread = list(spread.values())
        compiles = self.config.trainer.compile
        mode = compiles if isinstance(compiles, str) else None
        compiled = functools.partial(torch.compile, mode=mode) if compiles else lambda model: model
        self._val_models = {name: compiled(model) for name, model in self._bare.items()}
        self.models = {
            name: self._val_models[name] if model is self._bare[name] else compiled(model)
            for name, model in spread.items()
        }
        self._syncs_by_hand = is_distributed() and self.config.trainer.accumulate > 1

    def _make_updaters(self) -> None:
        """Join each optimizer with its schedule, its config section and its model."""
        precision, several = self.config.trainer.precision, len(self.optimizers) > 1
        self._updaters = {
            name: Updater(
                optimizer,
                self.schedulers.get(name),
                self.optim_config(name),
                self._bare[name],
                precision,
                only=several,
                on_lost=self._note_lost_step,
            )
            for name, optimizer in self.optimizers.items()
        }

    def _bind_steps(self) -> None:
        """Look up the steps and those hooks that are overridden, so that the others cost nothing."""
        precision, debug, progress = self.config.trainer.precision, self.config.debug, self.config.progress
        self._log_every = progress.iter_loss
        self._val_every = progress.iter_val if self.val_loader else 0
        self._keep_every = progress.iter_save_checkpoint
        self._is_alone = get_world_size() == 1
        self._draw_every = progress.epoch_save_progress if progress.save_progress else 0
        self._sizes_at, self._data_size = find_sizes_at(self.train_loader), get_data_size()
        self._transform_batch = find_transform(self.train_loader)
        self._train_step = in_precision(self.train_step, self.device, precision)
        self._val_step = in_precision(self.val_step, self.device, precision)
        for name in ("before_train_step", "after_backward", "after_train_step"):
            overridden = getattr(type(self), name) is not getattr(TrainerHooks, name)
            setattr(self, f"_{name}", getattr(self, name) if overridden else None)
        self._iterate = self._run_iteration
        if debug.debug_mode or debug.print_all_grad:
            self._after_backward = self._inspect_gradients
        if debug.debug_mode:
            torch.autograd.set_detect_anomaly(True)
            self._iterate = self._run_iteration_or_dump
        if debug.profile and get_rank() == 0:
            self._iterate = ProfiledSteps(self, self._iterate, *debug.profile)

    def _check_registered(self) -> None:
        if not self.models or not self.optimizers or not hasattr(self, "train_loader"):
            raise UserError(f"{type(self).__name__}: register a model, an optimizer and a loader before run()")
        for name in self.optimizers:
            if name not in self.models:
                raise UserError(f"{type(self).__name__}: optimizer '{name}' has no model, {nearest(name, self.models)}")
        for name, scheduler in self.schedulers.items():
            self._check_plateau(name, scheduler)
        counts = gather(self.iterations_per_epoch)
        if len(set(counts)) > 1:
            found = ", ".join(map(str, counts))
            raise UserError(
                f"dataset.train: the processes have {found} batches; set progress.iters_per_epoch, or even it"
            )
        if self.val_loader is None and self.config.trainer.early_stop:
            raise UserError("trainer.early_stop: needs dataset.val, found none")
        if self.val_loader is None and self.config.checkpoint.best_metric:
            add_log("checkpoint.best_metric selects nothing, since there is no dataset.val", "WARNING")

    def _check_plateau(self, name: str, scheduler: Scheduler) -> None:
        """Refuse a ReduceLROnPlateau that has nothing to watch, or watches it upside down."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            return
        where = "optim.lr_scheduler" if name == MAIN else f"optim.named.{name}.lr_scheduler"
        checkpoint = self.config.checkpoint
        if checkpoint.best_metric is None or self.val_loader is None:
            raise UserError(f"{where}: ReduceLROnPlateau needs checkpoint.best_metric and dataset.val")
        mode = "max" if checkpoint.best_larger else "min"
        if scheduler.mode != mode:
            raise UserError(f"{where}.mode: expected {mode}, as checkpoint.best_larger says, found {scheduler.mode}")

    def _parts(self) -> dict[str, Any]:
        """Return what a checkpoint holds, by its keys."""
        parts: dict[str, Any] = {"continuity": Continuity(self.config)}
        parts |= {part_name("model", name): whole_model(model) for name, model in self._bare.items()}
        for name, updater in self._updaters.items():
            parts |= {part_name(kind, name): part for kind, part in updater.parts().items()}
        others = {"trainer": self, "meters": self.meters, "selection": self.selection, "monitor": self._monitor}
        return parts | others | {"random": RandomState()}

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and iteration that come next, the iterations of the whole run, and what is due first."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        for name in _STATE:
            setattr(self, name, state[name])
