"""What a trainer's subclass sees: the parts it registers, the steps it implements, the hooks it may override."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from common.config.errors import UserError, nearest
from common.config.schema import Config, OptimizerConfig
from common.data.batches import TrainingBatches
from common.engine.agenda import Agenda, Counters
from common.engine.stop import StopControl
from common.engine.tester import BaseTester
from common.log.best import BestTracker
from common.log.metric import Meters, MetricSet
from common.optim.step import OptimizerStep
from common.run.launch import Session
from common.run.strategy import MAIN, Models


class TrainerBase(metaclass=ABCMeta):
    """The parts of a training by name, and its steps and hooks."""

    fixed_mode: ClassVar[Literal["epoch", "iter"] | None] = None
    steps: dict[str, OptimizerStep]  # by optimizer; made in prepare()

    def __init__(self, config: Config, session: Session):
        self.config, self.session = config, session
        self.forms = Models(config)
        self.optimizers: dict[str, Optimizer] = {}
        self.schedulers: dict[str, LRScheduler] = {}
        self.train_loader: DataLoader | None = None
        self.val_loader: DataLoader | None = None
        self.metric = MetricSet({})
        self.tester: BaseTester | None = None
        self.counters, self.agenda = Counters(), Agenda(config.progress)
        self.stop, self.meters = StopControl(config), Meters()
        keep, trainer = config.checkpoint, config.trainer
        self.best = BestTracker(
            keep.best_metric, keep.best_larger, trainer.early_stop, trainer.early_stop_delta, keep.keep_best
        )

    def register_model(self, model: nn.Module, name: str = MAIN) -> None:
        """Register a model, then its optimizer: its parameters move to the device, and are sharded if so configured."""
        self.forms.bare[name] = self.session.strategy.place(model, self.config)

    def register_optimizer(self, optimizer: Optimizer, name: str = MAIN) -> None:
        """Register the optimizer of the model of the same name."""
        self.optimizers[name] = optimizer

    def register_scheduler(self, scheduler: LRScheduler | None, name: str = MAIN) -> None:
        """Register the learning rate schedule of the optimizer of the same name, if there is one."""
        if scheduler is not None:
            self.schedulers[name] = scheduler

    def register_loader(self, train_loader: DataLoader | None, val_loader: DataLoader | None = None) -> None:
        """Register the training and validation loaders; without the latter there is no validation."""
        self.train_loader, self.val_loader = train_loader, val_loader

    def register_metric(self, metric: MetricSet) -> None:
        """Register metrics over the whole validation set, updated after each ``val_step``."""
        self.metric = metric

    def register_tester(self, tester: BaseTester) -> None:
        """Register the tester that evaluates every ``progress.epoch_eval`` epochs."""
        self.tester = tester

    @property
    def models(self) -> dict[str, nn.Module]:
        """The models for a step to call: ``forms.wrapped`` in training, ``forms.validation`` in an evaluation."""
        return self.forms.active

    @property
    def model(self) -> nn.Module:
        """The model that is registered without a name."""
        return self.forms.active[MAIN]

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer that is registered without a name."""
        return self.optimizers[MAIN]

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.session.device

    @property
    def epoch(self) -> int:
        """The epoch that is running, or comes next."""
        return self.counters.epoch

    @property
    def iteration(self) -> int:
        """The iteration of this epoch that comes next."""
        return self.counters.iteration

    @property
    def total_iterations(self) -> int:
        """The iterations made so far in the whole run."""
        return self.counters.total_iterations

    @property
    def optimizer_steps(self) -> int:
        """The optimizer steps made so far, without those that were skipped."""
        return max(step.steps for step in self.steps.values())

    @property
    def iterations_per_epoch(self) -> int:
        """``progress.iters_per_epoch``, or one pass over the training set."""
        return self.training_batches().per_epoch

    @property
    def schedule_length(self) -> int:
        """Steps of the schedule over the whole run, for ``build_scheduler``: epochs, or optimizer steps."""
        batches, epochs = self.training_batches(), self.config.progress.epoch
        return epochs if batches.by_epoch else epochs * batches.steps_per_epoch

    def training_batches(self) -> TrainingBatches:
        """Return the batches of the training loader, as the mode divides them into epochs."""
        if self.train_loader is None:
            raise UserError(f"{type(self).__name__}: register a model, an optimizer and a loader before run()")
        trainer, per_epoch = self.config.trainer, self.config.progress.iters_per_epoch
        by_epoch = (self.fixed_mode or trainer.mode) == "epoch"
        return TrainingBatches(self.train_loader, by_epoch, per_epoch, trainer.accumulate, self.device)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the groups for the optimizer: the model's own ``parameter_groups()``, or a single one."""
        own_groups = getattr(model, "parameter_groups", None)
        if callable(own_groups):
            return own_groups()
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def optim_config(self, name: str = MAIN) -> OptimizerConfig:
        """Return an optimizer's config section, ``optim`` or ``optim.named.<name>``; a UserError if there is none."""
        named = self.config.optim.named
        if name != MAIN and name not in named:
            raise UserError(f"optim.named.{name}: no such section, {nearest(name, named)}")
        return self.config.optim if name == MAIN else named[name]

    def before_train_epoch(self, epoch: int) -> None:
        """Before a training epoch, and again where a run resumes within it."""

    def before_train_step(self, epoch: int, iteration: int, data_dict: dict) -> None:
        """Before a training step."""

    @abstractmethod
    def train_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return a dict of the model's output and a dict of results, whose ``"loss"`` is differentiated.

        The result's scalars are logged. ``iteration`` counts from 0 within the epoch.
        """

    def after_backward(self, epoch: int, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """After the backward pass, before the optimizer's step: the gradients are there."""

    def after_train_step(
        self, epoch: int, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict
    ) -> None:
        """After the optimizer's step; what is added to ``result_dict`` is logged, too."""

    def after_train_epoch(self, epoch: int, summary_dict: dict[str, float]) -> None:
        """After a training epoch; ``summary_dict`` has the mean of each result over the epoch."""

    def before_val_epoch(self, epoch: int) -> None:
        """Before a validation."""

    def before_val_step(self, epoch: int, iteration: int, data_dict: dict) -> None:
        """Before a validation step."""

    @abstractmethod
    def val_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return a dict of the model's output and a dict of scalar results, the means over the batch."""

    def after_val_step(self, epoch: int, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """After a validation step."""

    def after_val_epoch(self, epoch: int, summary_dict: dict[str, float]) -> None:
        """After a validation; ``summary_dict`` has the mean of each result and each metric, over the whole set."""

    def render_progress_imgs(self, data_dict: dict, output_dict: dict) -> dict[str, torch.Tensor]:
        """Return pictures by name, (3, H, W) or (1, H, W) in [0, 1], of ``progress.max_samples_val`` samples."""
        return {}
