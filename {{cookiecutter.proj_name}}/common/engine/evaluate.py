"""The evaluation loop, which validation and testers share, and what a trainer evaluates between its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from common.data.batches import find_sizes_at, join_batches, on_device
from common.engine.agenda import Task
from common.engine.report import format_scalars
from common.log import activations
from common.log.console import add_log
from common.log.metric import Meters, MetricSet
from common.optim.step import EMA
from common.run.distributed import get_rank
from common.run.seed import random_state_kept
from common.run.strategy import in_precision, sync_buffers

if TYPE_CHECKING:
    from common.engine.trainer import Trainer

# What a step of an evaluation returns: the model's output, and dicts of results, each with its weight in the mean.
StepResult = tuple[dict[str, Any], Iterable[tuple[dict[str, Any], int]]]
CheckStop = Callable[[DataLoader, int], None]


def evaluate(
    loader: DataLoader,
    device: torch.device,
    step: Callable[[int, dict, int], StepResult],
    metric: MetricSet,
    check_stop: CheckStop | None = None,
    before: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Run over a data set and return the mean of each result and each metric, over all ranks. Collective.

    ``step`` is called with the iteration, the batch and the number of its samples. That is 0 for a batch which only
    keeps this rank in step with the others, whose samples they are: its results do not count. ``check_stop`` is called
    before each batch, and raises where the run is to stop; ``before`` once, when the metric is reset.
    """
    meters, sizes_at, transform = Meters(), find_sizes_at(loader), getattr(loader, "transform_batch", None)
    metric.reset()
    if before:
        before()
    for iteration, data_dict in enumerate(on_device(loader, device)):
        if check_stop:
            check_stop(loader, iteration)
        data_dict = transform(data_dict) if transform else data_dict
        size = sizes_at(iteration)[0] if sizes_at else 1
        output_dict, results = step(iteration, data_dict, size)
        if size:
            metric.update(output_dict, data_dict)
            for result_dict, weight in results:
                meters.update(result_dict, weight)
        if activations.tensors:
            activations.clear()
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


class Validation(Task):
    """Runs a trainer's ``val_step`` over its validation set, and follows the best result."""

    name = "validate"

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self._val_step = in_precision(trainer.val_step, trainer.device, trainer.config.trainer.precision)

    def run(self) -> None:
        """Validate, log, let the schedules that watch the result see it, and note which checkpoints to keep."""
        trainer, total = self._trainer, self._trainer.total_iterations
        if not trainer.val_loader:  # none, or an empty one
            return
        epoch = trainer.epoch if trainer.iteration else trainer.epoch - 1  # that of the last iteration
        with _validation_models(trainer):
            summary_dict = self._evaluate(trainer.val_loader, epoch)
        best, agenda = trainer.best, trainer.agenda
        is_best = best.update(summary_dict)
        trainer.curves.add_scalars("val", summary_dict, epoch, total)
        add_log(f"epoch {epoch} | val | {format_scalars(summary_dict)}")
        for step in trainer.steps.values():
            step.step_plateau(summary_dict.get(best.metric or ""))
        if is_best:
            agenda.keep.append(f"best_{best.metric}")
        name = f"best_{best.metric}_iter_{total:06d}"
        dropped = best.rank(summary_dict, name)
        agenda.keep += [name] if name not in dropped else []
        agenda.drop += [other for other in dropped if other != name]

    def _evaluate(self, loader: DataLoader, epoch: int) -> dict[str, float]:
        trainer, progress = self._trainer, self._trainer.config.progress
        missing = progress.max_samples_val if progress.save_progress_val else 0  # samples of the picture to come
        shown: list[tuple[dict, ...]] = []

        def step(iteration: int, data_dict: dict, size: int) -> StepResult:
            if not size:
                return self._val_step(epoch, iteration, data_dict)[0], ()
            trainer.before_val_step(epoch, iteration, data_dict)
            output_dict, result_dict = self._val_step(epoch, iteration, data_dict)
            trainer.after_val_step(epoch, iteration, data_dict, output_dict, result_dict)
            return output_dict, results(data_dict, output_dict, result_dict, size)

        def results(data_dict: dict, output_dict: dict, result_dict: dict, size: int) -> Iterator:
            nonlocal missing
            yield result_dict, size
            if missing > 0:
                shown.append((data_dict, output_dict))
                missing -= size
                if missing <= 0:
                    draw()

        def draw() -> None:
            trainer.draw("val", epoch, 0, *join_batches(shown))
            shown.clear()

        check_stop, before = trainer.stop.check_within, partial(trainer.before_val_epoch, epoch)
        summary_dict = evaluate(loader, trainer.device, step, trainer.metric, check_stop, before)
        if shown:  # the whole set has fewer samples
            draw()
        for name, figure in trainer.metric.draw().items() if progress.save_progress_val else ():
            trainer.curves.add_figure("val", name, figure, trainer.total_iterations)
        trainer.after_val_epoch(epoch, summary_dict)
        return summary_dict


class Evaluation(Task):
    """Runs a tester with a trainer's present weights, and writes to ``eval/``."""

    name = "evaluate"

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def run(self) -> None:
        """Evaluate the samples, and record the results."""
        trainer, epoch, tester = self._trainer, self._trainer.epoch, self._trainer.tester
        if tester is None:
            return
        tester.check_stop = trainer.stop.check_within
        with _validation_models(trainer):
            summary_dict = tester.run(trainer.session.folder / "eval" / f"epoch_{epoch:03d}")
        trainer.curves.add_scalars("eval", summary_dict, epoch, trainer.total_iterations)


@contextmanager
def _validation_models(trainer: Trainer) -> Iterator[None]:
    """Let steps call the validation models, with averaged weights and random numbers that do not affect training's."""
    models, averages = trainer.forms, [step.ema for step in trainer.steps.values() if step.ema]
    models.active = models.validation
    try:
        with (
            random_state_kept(trainer.config.trainer.seed, trainer.total_iterations, get_rank()),
            evaluating(models.bare.values(), averages),
        ):
            sync_buffers(models.bare.values())  # after the averages, of which each rank has its own, are in place
            yield
    finally:
        models.active = models.wrapped
