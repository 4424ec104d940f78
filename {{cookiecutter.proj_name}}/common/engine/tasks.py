"""What a trainer does between its steps: validate on ``dataset.val``, evaluate on ``dataset.eval``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader

from common.engine.agenda import Task
from common.engine.evaluate import StepResult, evaluate, evaluating
from common.engine.report import format_scalars
from common.engine.tester import BaseTester
from common.log.console import add_log
from common.run.device import in_precision
from common.run.distributed import get_rank
from common.run.seed import random_state_kept
from common.run.strategy import sync_buffers

if TYPE_CHECKING:
    from common.engine.trainer import Trainer


class Validation(Task):
    """Runs a trainer's ``val_step`` over the validation set, and follows the best result.

    Args:
        trainer: The trainer.
        loader: The validation set's loader.
    """

    name = "validate"

    def __init__(self, trainer: Trainer, loader: DataLoader):
        self._trainer, self._loader = trainer, loader
        self._val_step = in_precision(trainer.val_step, trainer.device, trainer.config.trainer.precision)

    def run(self) -> None:
        """Validate, log, let the schedules that watch the result see it, and note which checkpoints to keep."""
        trainer, epoch, total = self._trainer, self._trainer.counters.last_epoch, self._trainer.total_iterations
        with validation_models(trainer):
            summary_dict = self._evaluate(epoch)
        is_best = trainer.best.update(summary_dict)
        trainer.curves.add_scalars("val", summary_dict, epoch, total)
        add_log(f"epoch {epoch} | val | {format_scalars(summary_dict)}")
        for step in trainer.steps.values():
            step.step_plateau(summary_dict.get(trainer.best.metric))
        if is_best:
            trainer.agenda.keep.append(f"best_{trainer.best.metric}")
        name = f"best_{trainer.best.metric}_iter_{total:06d}"
        dropped = trainer.best.rank(summary_dict, name)
        trainer.agenda.keep += [name] if name not in dropped else []
        trainer.agenda.drop += [other for other in dropped if other != name]

    def _evaluate(self, epoch: int) -> dict[str, float]:
        trainer, draws = self._trainer, self._trainer.config.progress.save_progress_val

        def step(iteration: int, data_dict: dict, size: int) -> StepResult:
            if not size:
                return self._val_step(epoch, iteration, data_dict)[0], ()
            trainer.before_val_step(epoch, iteration, data_dict)
            output_dict, result_dict = self._val_step(epoch, iteration, data_dict)
            trainer.after_val_step(epoch, iteration, data_dict, output_dict, result_dict)
            if iteration == 0 and draws:
                trainer.draw("val", epoch, iteration, data_dict, output_dict)
            return output_dict, [(result_dict, size)]

        trainer.before_val_epoch(epoch)
        summary_dict = evaluate(self._loader, trainer.device, step, trainer.metric, trainer.stop.check_within)
        if trainer.metric and draws:
            for name, figure in trainer.metric.draw().items():
                trainer.curves.add_figure("val", name, figure, trainer.total_iterations)
        trainer.after_val_epoch(epoch, summary_dict)
        return summary_dict


class Evaluation(Task):
    """Runs a tester with a trainer's present weights.

    Args:
        trainer: The trainer.
        tester: The tester, with the same model.
    """

    name = "evaluate"

    def __init__(self, trainer: Trainer, tester: BaseTester):
        self._trainer, self._tester = trainer, tester
        tester.check_stop = trainer.stop.check_within

    def run(self) -> None:
        """Evaluate, and write to ``eval/``."""
        trainer, epoch = self._trainer, self._trainer.epoch
        folder = trainer.session.folder / "eval" / f"epoch_{epoch:03d}"
        with validation_models(trainer):
            summary_dict = self._tester.run(folder)
        trainer.curves.add_scalars("eval", summary_dict, epoch, trainer.total_iterations)


@contextmanager
def validation_models(trainer: Trainer) -> Iterator[None]:
    """Make the validation models the active ones, in evaluation mode and with their averaged weights.

    The random numbers drawn inside depend on the seed and the iteration alone, and do not affect the training's.
    """
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
