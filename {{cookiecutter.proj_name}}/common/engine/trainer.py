"""The training loop. Follow a batch from ``run`` downward: the order of the lines is the order of events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from typing import Any

import torch

from common.config.errors import RunError, UserError, nearest
from common.config.registry import open_room
from common.data.loader import stop_workers
from common.engine import parts
from common.engine.agenda import is_due
from common.engine.base_trainer import TrainerBase
from common.log import named_tensors
from common.log.console import Progress, add_log
from common.run.distributed import barrier
from common.run.launch import explain
from common.run.seed import random_state_kept
from common.run.signals import Interrupted, handling
from common.run.strategy import MAIN, in_precision, part_name
from common.state.experiment import back_up, look_at_space


class Trainer(TrainerBase):
    """Trains by epochs or by iterations, as ``trainer.mode`` says.

    Register a model, an optimizer and the loaders in your ``__init__``, implement ``train_step`` and ``val_step``,
    override the hooks you need, and call ``run``. The order of events::

        before_train_epoch
        for each iteration:
            before_train_step, train_step, after_backward
            optimizer step
            after_train_step
            log iteration
            scheduler step      (by iterations)
        scheduler step          (by epochs)
        after_train_epoch
        validation, evaluation, checkpoint

    By epochs, an epoch is one pass over the training set. By iterations, the passes follow each other without end, and
    an epoch is ``progress.iters_per_epoch`` iterations.

    Several models, optimizers and schedules are registered by name. ``result_dict["loss"]`` is then a dict with a loss
    for each optimizer, and each loss reaches only the parameters of its optimizer. Where one step is to see another's
    new weights, call ``step(name, loss)`` within ``train_step``.
    """

    inspector: Any = None  # of the room diagnose, where debug asks for it

    def run(self) -> dict[str, float]:
        """Train to the end, from the beginning or from the session's checkpoint.

        Returns the results of the last validation in this call, and ``best_<metric>`` of the whole run for each
        ``checkpoint.best_metric``.
        """
        began = time.perf_counter()
        self.prepare()
        parts.start_banner(self)
        with ExitStack() as stack:
            stack.enter_context(handling(self.stop.handle_signal))
            for part in (self.curves, self.progress, self.checkpointer):
                stack.enter_context(closing(part))
            stack.callback(lambda: (stop_workers(self.train_loader), stop_workers(self.val_loader)))
            try:
                self._train()
            except (Exception, Interrupted) as error:
                named = explain(error, self._place(), f"dataset.{'val' if self.agenda.due else 'train'}.batch_size")
                self._leave(error)
                if named is error:
                    raise
                raise named from error
            self.checkpointer.wait(is_last=True)
        parts.closing_summary(self, began)
        return self.best.last | {best.file: best.best for best in self.trackers if best.best is not None}

    def prepare(self) -> None:
        """Make the parts that the loop needs, and take over the checkpoint."""
        self.trackers = parts.make_trackers(self)
        parts.check_registered(self)
        config, session = self.config, self.session
        if session.checkpoint and not session.goes_on:
            parts.take_weights(self, session.checkpoint)
        self.forms.wrap(session.strategy, config.trainer.compile, len(self.optimizers) == 1)
        self.batches, self.steps = self.training_batches(), parts.make_steps(self)
        self._counts_steps = config.progress.iter_unit == "step" and config.trainer.accumulate > 1
        self._stepped: dict[str, torch.Tensor] = {}  # the losses of this iteration's calls of step(), by optimizer
        self._train_step = in_precision(self.train_step, self.device, config.trainer.precision)
        self._val_step = in_precision(self.val_step, self.device, config.trainer.precision)
        self.check_best_metrics()
        self.checkpointer = parts.make_checkpointer(self)
        if session.checkpoint and session.goes_on:
            parts.resume(self, session.checkpoint)
        back_up(config, session.folder, self.device)
        look_at_space(session.folder, self.forms.bare.values(), config.checkpoint.on_error == "stop")
        self.progress = Progress(config.progress.epoch * self.batches.per_epoch, self.total_iterations)
        if config.debug.debug_mode or config.debug.print_all_grad or config.debug.profile:
            self.inspector = open_room("diagnose", "debug").Inspector(self)

    def _train(self) -> None:
        counters, progress = self.counters, self.config.progress
        self.stop.start(counters.total_iterations)
        if progress.init_eval and counters.total_iterations == 0:
            self.agenda.add("evaluate")
        elif progress.init_eval:
            add_log("progress.init_eval: this run has begun already, so there is no evaluation before it")
        self._run_due_tasks()
        while counters.epoch < progress.epoch and not self.best.should_stop:
            self._train_epoch(counters.epoch)
            self._run_due_tasks()
            self._agree()
        if counters.epoch < progress.epoch:
            best = f"{self.best.metric} {self.best.best:.4g}" if self.best.best is not None else "any result"
            add_log(f"early stop after {self.config.trainer.early_stop} validations no better than {best}")
        self._save("final")

    def _train_epoch(self, epoch: int) -> None:
        agenda, counters, progress, stop = self.agenda, self.counters, self.progress, self.stop
        stop.is_sound = False
        # Where a run resumes within an epoch, this hook has drawn its random numbers and logged before.
        self.curves.at = None if counters.iteration else counters.total_iterations
        with random_state_kept() if counters.iteration else nullcontext():
            self.before_train_epoch(epoch)
        for model in self.forms.bare.values():
            model.train()
        for step in self.steps.values():
            step.start_epoch(epoch)
        if self.batches.loader is not self.train_loader:  # a hook may register another one
            self.batches = self.training_batches()
        batches = self.batches.open(epoch, counters.iteration, counters.total_iterations)
        count, clock = self.batches.per_epoch, time.perf_counter
        run_iteration = self.inspector.run_iteration if self.inspector else self.run_iteration
        progress.restart_clock(counters.total_iterations)
        for iteration in range(counters.iteration, count):
            asked = clock()
            data_dict = next(batches, None)
            progress.waited += clock() - asked
            if data_dict is None:
                hint = "lower progress.iters_per_epoch or set trainer.mode to iter"
                raise UserError(f"dataset.train: the loader ended after {iteration} of {count} batches; {hint}")
            stop.is_sound = False
            run_iteration(epoch, iteration, data_dict)
            stop.is_sound = True
            if iteration + 1 < count:
                if agenda.counts_iterations and agenda.after_iteration(counters.total_iterations, self.count()):
                    self._run_due_tasks()
                if counters.total_iterations >= stop.agree_at:
                    self._agree()
        self._end_epoch(epoch)

    def run_iteration(self, epoch: int, iteration: int, data_dict: dict) -> None:
        """Train on one batch: forward, backward, and an optimizer step where it closes its accumulation window."""
        counters, progress = self.counters, self.config.progress
        closes_window, weight, size = self.batches.window(iteration)
        total = counters.total_iterations + 1
        count = self.count(ahead=1) if self._counts_steps else total
        self.curves.at = total if progress.iter_loss and count is not None and count % progress.iter_loss == 0 else None
        if self.batches.transform:
            data_dict = self.batches.transform(data_dict)
        if self.forms.syncs_by_hand:
            self.forms.sync_gradients(closes_window)
        self.before_train_step(epoch, iteration, data_dict)
        output_dict, result_dict = self._train_step(epoch, iteration, data_dict)
        if self.inspector:
            self.inspector.after_forward(epoch, iteration, result_dict)
        result_dict = self._backward(result_dict, weight, closes_window)
        if self.inspector:
            self.inspector.after_backward(epoch, iteration)
        self.after_backward(epoch, iteration, data_dict, output_dict, result_dict)
        if closes_window:
            for name, step in self.steps.items():
                if name not in self._stepped:
                    step.step((epoch, iteration))
        if self.inspector:
            self.inspector.after_step()
        self.after_train_step(epoch, iteration, data_dict, output_dict, result_dict)
        counters.iteration = iteration + 1
        counters.total_iterations = total
        if size:
            self.meters.update(result_dict, size)
        if progress.save_progress and (
            (iteration == 0 and is_due(progress.epoch_save_progress, epoch + 1))
            or is_due(progress.iter_save_progress, count)
        ):
            self.draw("train", epoch, iteration, data_dict, output_dict)
        if self.curves.at is not None:
            self._log_iteration(epoch, iteration)
        if not self.progress.disable:
            self.progress.update()
        if closes_window and not self.batches.by_epoch:
            self._step_schedulers()
        if named_tensors:
            named_tensors.clear()
        if self._stepped:
            self._stepped = {}

    def step(self, name: str, loss: torch.Tensor) -> None:
        """Make a step of the optimizer ``name`` within ``train_step``: what comes after it sees the new weights.

        Its gradients are gone afterwards. The step does all that a returned loss brings about: accumulation, scaling,
        the check for values that are not finite, clipping, schedule, average of the weights, and the log. Of several
        batches that are accumulated, the last one makes the step.

        Raises:
            UserError: There is no such optimizer, it has had a loss of this accumulated batch, or this is a validation.
        """
        if self.forms.active is not self.forms.wrapped:
            raise UserError(f"step('{name}'): only train_step makes steps, found a validation")
        if name not in self.steps:
            raise UserError(f"step('{name}'): no such optimizer, {nearest(name, self.steps)}")
        if name in self._stepped and self.config.trainer.accumulate > 1:
            raise UserError(f"step('{name}'): twice for one batch, which trainer.accumulate cannot add up; set it to 1")
        _check_loss(loss)
        step, (closes_window, weight, _) = self.steps[name], self.batches.window(self.iteration)
        self._stepped[name] = loss.detach()
        with torch.autocast(self.device.type, enabled=False):
            step.backward(loss if weight is None else loss * weight, closes_window)
        if closes_window:
            step.step((self.epoch, self.iteration))
            torch.clear_autocast_cache()  # which has the old weights
            if not (self.batches.by_epoch or step.spans_run):
                step.step_scheduler()

    def _backward(self, result_dict: dict, weight: float | None, closes_window: bool) -> dict:
        """Differentiate the loss, or with several optimizers each one's own, and return the results with each."""
        if "loss" not in result_dict and not self._stepped:
            raise UserError(f"train_step: its results have no 'loss' to differentiate, found {', '.join(result_dict)}")
        losses = result_dict.get("loss", {})
        if isinstance(losses, dict):
            named = {part_name("loss", name): loss for name, loss in {**self._stepped, **losses}.items()}
            _refuse_shared(result_dict.keys() & named.keys() - {"loss"}, "an optimizer's loss")
            result_dict = result_dict | named
        else:
            losses = {MAIN: losses}
        last = len(losses) - 1
        for i, (name, loss) in enumerate(losses.items()):
            _check_loss(loss)
            if name not in self.steps:
                raise UserError(f"train_step: 'loss' for optimizer '{name}', {nearest(name, self.steps)}")
            if name in self._stepped:
                raise UserError(f"train_step: a 'loss' for optimizer '{name}', which has made its step; leave one out")
            self.steps[name].backward(loss if weight is None else loss * weight, closes_window, i < last)
        return result_dict

    def _log_iteration(self, epoch: int, iteration: int) -> None:
        values, own = self.meters.flush(), self.progress.measure(self.total_iterations)
        settings: dict[str, float] = {}
        for name, step in self.steps.items():
            settings |= {part_name(key, name): value for key, value in step.log_values().items()}
        _refuse_shared(values.keys() & (settings | own).keys(), "a value that the engine logs")
        values |= settings
        self.curves.add_scalars("train", values | own, epoch, self.total_iterations)
        place, text = f"epoch {epoch} iteration {iteration + 1}/{self.batches.per_epoch}", parts.format_scalars(values)
        add_log(f"{place} | {text} | {self.progress.describe()}", in_bar=True)
        self.progress.set_postfix_str(text, refresh=False)

    def _end_epoch(self, epoch: int) -> None:
        self.stop.is_sound = False
        if self.batches.by_epoch:
            self._step_schedulers()
        for step in self.steps.values():
            step.settle()
        self.counters.epoch, self.counters.iteration = epoch + 1, 0
        summary_dict = self.meters.summary()
        self.meters.reset()
        self.curves.at = self.total_iterations
        self.after_train_epoch(epoch, summary_dict)
        if is_due(self.config.progress.epoch_loss, epoch + 1):
            self.curves.add_scalars("train_epoch", summary_dict, epoch, self.total_iterations)
            add_log(f"epoch {epoch} | train | {parts.format_scalars(summary_dict)}")
        self.agenda.after_epoch(self.counters, self.count())
        self.stop.is_sound = True

    def count(self, ahead: int = 0) -> int | None:
        """Return what the ``progress.iter_*`` intervals count, so many iterations ahead of those made.

        It is the number of iterations, or of optimizer steps, then None where gradients are being accumulated.
        """
        if self._counts_steps:
            return self.batches.steps_before(self.epoch, self.iteration + ahead)
        return self.total_iterations + ahead

    def _step_schedulers(self) -> None:
        for step in self.steps.values():
            step.step_scheduler()

    def _run_due_tasks(self) -> None:
        """Run the tasks that are due, then save under the names that are to be kept."""
        agenda, tasks = self.agenda, {"validate": self.run_validation, "evaluate": self.run_evaluation}
        while agenda.due:  # a task counts as due until it has ended
            tasks[agenda.due[0]]()
            del agenda.due[0]
        if agenda.keep:
            names, obsolete = dict.fromkeys(["latest", *agenda.keep]), agenda.drop
            agenda.keep, agenda.drop = [], []
            self._save(*names, obsolete=obsolete)
        self.progress.restart_clock(self.total_iterations)

    def _save(self, *names: str, obsolete: Sequence[str] = ()) -> None:
        self.checkpointer.save(*names, obsolete=obsolete)
        self.stop.saved_at = time.monotonic()

    def _agree(self) -> None:
        """Let the ranks agree on whether to stop or to save."""
        has_failed, is_overdue = self.stop.agree(self.total_iterations, self.checkpointer.has_failed)
        if has_failed:
            self.checkpointer.wait()
        if is_overdue:
            self._save("latest")

    def _leave(self, error: BaseException) -> None:
        """Save the state if it is sound and all ranks are here, and say how to resume."""
        reason = f"{error.name} came" if isinstance(error, Interrupted) else "the run ended with an error"
        if self.stop.may_save(error):
            try:
                self._save("latest")
                self.checkpointer.wait(is_last=True)
            except RunError as failure:
                if isinstance(error, Interrupted):
                    raise
                add_log(f"{reason}, and {failure}", "ERROR")
                return
            barrier()  # so that no rank leaves while another still needs it
            add_log(f"{reason}: saved after {self._place()}; --resume {self.session.folder} goes on", "WARNING")
        else:
            add_log(f"{reason} within a step, after {self._place()}; the last save is what counts", "WARNING")

    def _place(self) -> str:
        return ", ".join([*self.agenda.due[:1], f"epoch {self.epoch} iteration {self.iteration}"])

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and iteration that come next, the iterations made so far, and what is due first."""
        state = self.counters.state_dict() | self.agenda.state_dict()
        foreign = self.batches.foreign
        return state if foreign is None else state | {"loader": foreign.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from ``state_dict``."""
        self.counters.load_state_dict(state)
        self.agenda.load_state_dict(state)
        if self.batches.foreign is not None:
            self.batches.foreign.load_state_dict(state.get("loader", {}))


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise UserError(f"train_step: 'loss' must be a tensor of one element, found {found}")


def _refuse_shared(names: set[str], other: str) -> None:
    """Raise a UserError for a result of a step with a name that stands for something else."""
    if names:
        raise UserError(f"train_step: its result '{min(names)}' has the name of {other}; choose another")


class EpochBasedTrainer(Trainer):
    """Trains by epochs, whatever ``trainer.mode`` says."""

    fixed_mode = "epoch"


class IterBasedTrainer(Trainer):
    """Trains by iterations, whatever ``trainer.mode`` says."""

    fixed_mode = "iter"
