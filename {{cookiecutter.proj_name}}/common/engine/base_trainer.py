"""The evaluation loop, and what a trainer's subclass sees: its parts, steps and hooks, and its validation."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from common.config.errors import UserError, nearest
from common.config.registry import open_room
from common.config.schema import Config, OptimizerConfig
from common.data.batches import TrainingBatches, starts_anywhere
from common.data.loader import find_sizes_at, join_batches, on_device, unless_empty
from common.engine.agenda import Agenda, Counters, StopControl
from common.engine.parts import format_scalars
from common.log import named_tensors
from common.log.best import BestTracker
from common.log.console import add_log, despite_disk_errors
from common.log.curves import Curves
from common.log.metric import Meters, MetricSet
from common.optim.step import EMA, OptimizerStep
from common.run.distributed import get_rank
from common.run.launch import Session
from common.run.seed import random_state_kept
from common.run.strategy import MAIN, Models, sync_buffers

if TYPE_CHECKING:
    from common.engine.tester import BaseTester

# What a step of an evaluation returns: the model's output, and dicts of results, each with its weight in the mean.
StepResult = tuple[dict[str, Any], Iterable[tuple[dict[str, Any], int]]]
Step = Callable[[int, dict, int], StepResult]


def evaluate(
    loader: DataLoader, device: torch.device, step: Step, metric: MetricSet, stop: StopControl | None = None
) -> dict[str, float]:
    """Run over a data set and return the mean of each result and each metric, over all ranks. Collective.

    ``step`` is called with the iteration, the batch and the number of its samples. That is 0 for a batch which only
    keeps this rank in step with the others, whose samples they are: its results do not count. ``stop`` may end the
    loop before a batch, by an exception.
    """
    meters = Meters()
    metric.reset()
    sizes_at, size_of = find_sizes_at(loader), getattr(loader, "size_of", None)
    transform, is_even = getattr(loader, "transform_batch", None), starts_anywhere(loader)
    for iteration, data_dict in enumerate(on_device(loader, device)):
        size = sizes_at(iteration)[0] if sizes_at else 1
        if size and size_of:
            size = size_of(data_dict)
        if stop and stop.may_end:
            stop.check_within(is_even, iteration)
        data_dict = transform(data_dict) if transform else data_dict
        output_dict, results = step(iteration, data_dict, size)
        if size:
            try:
                metric.update(output_dict, data_dict)
            except KeyError as error:
                if error.args[0] in (found := {**data_dict, **output_dict}):
                    raise
                hint = "a set without labels is evaluated without metrics, by --metric {}"
                raise UserError(f"metric: found no {error} in a batch, but {', '.join(found)}; {hint}") from error
            for result_dict, weight in results:
                meters.update(result_dict, weight)
        if named_tensors:
            named_tensors.clear()
    return meters.summary() | metric.compute()


@contextmanager
def evaluating(models: Iterable[nn.Module], averages: Iterable[EMA] = ()) -> Iterator[None]:
    """Put models into evaluation mode, without gradients and with their averaged weights; restore them afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    with torch.no_grad(), ExitStack() as stack:
        for average in averages:
            stack.enter_context(average.swapped_in())
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


class TrainerBase(metaclass=ABCMeta):
    """The parts of a training by name, its steps and hooks, and its validation."""

    fixed_mode: ClassVar[Literal["epoch", "iter"] | None] = None
    steps: dict[str, OptimizerStep]  # by optimizer; these three are made in prepare()
    trackers: list[BestTracker]  # one for each checkpoint.best_metric
    _val_step: Callable[[int, int, dict], tuple[dict, dict]]

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
        self.stop, self.meters, self.curves = StopControl(config), Meters(), Curves(session.folder)

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
    def best(self) -> BestTracker:
        """What follows the first ``checkpoint.best_metric``."""
        return self.trackers[0]

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
        counts = getattr(self.train_loader, "size_of", None)  # by what only the batch itself tells, such as tokens
        kind = open_room("loading.counted", "dataset.train").CountedBatches if counts else TrainingBatches
        return kind(self.train_loader, by_epoch, per_epoch, trainer.accumulate, self.device)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the groups for the optimizer: the model's own ``parameter_groups()``, or a single one."""
        own_groups = getattr(model, "parameter_groups", None)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return own_groups() if callable(own_groups) else [{"params": trainable}]

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

    @property
    def is_logged(self) -> bool:
        """Whether ``log_text`` and the methods beside it record now; the same on all ranks.

        They do in validations, in the hooks around an epoch, and within an iteration in every
        ``progress.iter_loss``-th, those whose scalars are logged. Ask it before you make what is costly.
        """
        return self.curves.at is not None

    def log_text(self, name: str, value: str) -> None:
        """Record a text, in Markdown, in TensorBoard as ``train/<name>``, or ``val/<name>`` within a validation.

        This method and the others like it may be called in any step or hook on any rank. Where ``is_logged`` is false,
        and on ranks other than 0, they do nothing; of a name's values in one validation they record the first.
        """
        self._record("text", name, value)

    def log_histogram(self, name: str, value: Any) -> None:
        """Record the distribution of numbers: a tensor or an array of any shape, or a list."""
        self._record("histogram", name, value)

    def log_figure(self, name: str, value: Any) -> None:
        """Record a matplotlib figure; one of ``pyplot`` is closed."""
        self._record("figure", name, value)

    def log_image(self, name: str, value: torch.Tensor) -> None:
        """Record a picture (3, H, W) or (1, H, W), uint8 or floating in [0, 1]."""
        self._record("image", name, value)

    def log_audio(self, name: str, value: Any, sample_rate: int = 44100) -> None:
        """Record a sound (samples,) with values in [-1, 1], and ``sample_rate`` samples a second."""
        self._record("audio", name, value, sample_rate)

    def _record(self, kind: str, name: str, value: Any, *options: Any) -> None:
        if self.curves.at is not None:
            split = "val" if self.forms.active is self.forms.validation else "train"
            self.curves.add(kind, f"{split}/{name}", value, self.curves.at, *options)

    def run_validation(self) -> None:
        """Validate, log, let the schedules that watch the result see it, and note which checkpoints to keep."""
        loader = unless_empty(self.val_loader)
        if loader is None:
            return
        agenda, total = self.agenda, self.total_iterations
        epoch = self.epoch if self.iteration else self.epoch - 1  # that of the last iteration
        self.curves.at = total
        with self.curves.block():
            with self._evaluating():
                summary_dict = self._validate(loader, epoch)
            improved = [best for best in self.trackers if best.update(summary_dict)]
            self.curves.add_scalars("val", summary_dict, epoch, total)
        add_log(f"epoch {epoch} | val | {format_scalars(summary_dict)}")
        for step in self.steps.values():
            step.step_plateau(summary_dict.get(self.best.metric or ""))
        agenda.keep += [best.file for best in improved]
        for best in self.trackers:
            name = f"{best.file}_iter_{total:06d}"
            dropped = {*best.rank(summary_dict, name)}
            agenda.keep += {name} - dropped
            agenda.drop += sorted(dropped - {name})

    def _validate(self, loader: DataLoader, epoch: int) -> dict[str, float]:
        progress = self.config.progress
        missing = progress.max_samples_val if progress.save_progress_val else 0  # samples of the picture to come
        shown: list[tuple[dict, ...]] = []

        def draw() -> None:
            self.draw("val", epoch, 0, *join_batches(shown))
            shown.clear()

        def step(iteration: int, data_dict: dict, size: int) -> StepResult:
            nonlocal missing
            if not size:
                return self._val_step(epoch, iteration, data_dict)[0], ()
            self.before_val_step(epoch, iteration, data_dict)
            output_dict, result_dict = self._val_step(epoch, iteration, data_dict)
            self.after_val_step(epoch, iteration, data_dict, output_dict, result_dict)
            if missing > 0:
                shown.append((data_dict, output_dict))
                missing -= size
                if missing <= 0:
                    draw()
            return output_dict, [(result_dict, size)]

        self.before_val_epoch(epoch)
        summary_dict = evaluate(loader, self.device, step, self.metric, self.stop)
        if shown:  # the whole set has fewer samples
            draw()
        for name, figure in self.metric.draw().items() if progress.save_progress_val else ():
            self.curves.add("figure", f"val/{name}", figure, self.total_iterations)
        self.after_val_epoch(epoch, summary_dict)
        return summary_dict

    def check_best_metrics(self) -> None:
        """Raise a UserError if no validation gives a ``best_metric``; try its first batch if need be. Collective.

        A hook that is overridden may add to the results: then the first validation has to tell.
        """
        loader, own = unless_empty(self.val_loader), (self.after_val_step, self.after_val_epoch)
        unchanged = (TrainerBase.after_val_step, TrainerBase.after_val_epoch)
        metrics = self.metric.directions()
        unknown = [best for best in self.trackers if best.metric and best.metric not in metrics]
        if not unknown or loader is None or any(getattr(hook, "__func__", None) not in unchanged for hook in own):
            return
        transform = getattr(loader, "transform_batch", None)
        with self._evaluating():
            self.before_val_epoch(self.epoch)
            for data_dict in islice(on_device(loader, self.device), 1):
                data_dict = transform(data_dict) if transform else data_dict
                self.before_val_step(self.epoch, 0, data_dict)
                _, result_dict = self._val_step(self.epoch, 0, data_dict)
                for best in unknown:
                    best.check({**result_dict, **metrics})

    def run_evaluation(self) -> None:
        """Run the tester with the present weights, and record the results; it writes to ``eval/``."""
        if self.tester is None:
            return
        self.tester.stop, self.tester.guard = self.stop, despite_disk_errors
        with self._evaluating():
            summary_dict = self.tester.run(self.session.folder / "eval" / f"epoch_{self.epoch:03d}")
        self.curves.add_scalars("eval", summary_dict, self.epoch, self.total_iterations)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Let steps call the validation models, with averaged weights and without an effect on the random numbers."""
        models, averages = self.forms, [step.ema for step in self.steps.values() if step.ema]
        models.active = models.validation
        try:
            with evaluating(models.bare.values(), averages):
                sync_buffers(models.bare.values())  # after the averages, of which each rank has its own, are in place
                with random_state_kept(self.config.trainer.seed, self.counters.total_iterations, get_rank()):
                    yield
        finally:
            models.active = models.wrapped

    @torch.no_grad()
    def draw(self, split: str, epoch: int, iteration: int, data_dict: dict, output_dict: dict) -> None:
        """Record what ``render_progress_imgs`` makes of a batch."""
        file = f"epoch{epoch:06d}_iter{iteration:06d}.png" if self.config.progress.local_progress else None
        for name, image in self.render_progress_imgs(data_dict, output_dict).items():
            path = Path(split, name, file) if file else None
            self.curves.add("image", f"{split}/{name}", image, self.total_iterations, file=path)
