"""The training loop. Follow a batch from ``run`` downwards: the order of the lines is the order of events."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext

from common.config.errors import UserError, nearest
from common.data.batches import stop_workers
from common.engine.between_steps import BetweenSteps, is_due
from common.engine.failures import explain
from common.engine.report import closing_summary, format_scalars, start_banner
from common.engine.trainer_parts import MAIN, part_name
from common.log import activations
from common.log.console import add_log
from common.run.seed import random_state_kept
from common.run.signals import Interrupted, handling
from common.sharding.parallel import set_gradient_sync


class BaseTrainer(BetweenSteps):
    """What both trainers share: registration, the loop, validation, checkpoints, logging.

    Register a model, an optimizer and the loaders in your ``__init__``, implement ``train_step`` and ``val_step``,
    override the hooks you need, and call ``run``.

    Several models, optimizers and schedules are registered under names of their own. ``result_dict["loss"]`` is then a
    dict with one loss for each optimizer, and each loss reaches only the parameters of its optimizer.

    Args:
        config: The whole config.
        session: Device, folder and checkpoint, from ``launch``.
    """

    def run(self) -> None:
        """Train to the end, from the beginning or from the session's checkpoint."""
        began = time.perf_counter()
        self._prepare()
        start_banner(self)
        with (
            handling(self._stop_request.note),
            closing(self._monitor),
            closing(self._progress),
            closing(self._checkpointer),
            self._workers_ended(),
        ):
            try:
                self._train()
            except (Exception, Interrupted) as error:
                named = explain(error, self._place(), f"dataset.{'val' if self.due else 'train'}.batch_size")
                self._leave(error)
                if named is error:
                    raise
                raise named from error
        closing_summary(self, began)

    @contextmanager
    def _workers_ended(self) -> Iterator[None]:
        try:
            yield
        finally:
            stop_workers(self.train_loader)
            stop_workers(self.val_loader)

    def _train(self) -> None:
        self._start_conferring()
        if self.config.progress.init_eval and self.total_iterations == 0:
            self.due = ["evaluate"]
        self._work_off()
        while self.epoch < self.config.progress.epoch and not self.selection.should_stop:
            self._train_epoch(self.epoch)
            self._work_off()
            self._confer()
        self._save("final")

    def _train_epoch(self, epoch: int) -> None:
        self._is_sound = False
        # An epoch that was cut has drawn this hook's random numbers already.
        with random_state_kept() if self.iteration else nullcontext():
            self.before_train_epoch(epoch)
        for model in self._bare.values():
            model.train()
        for updater in self._updaters.values():
            updater.start_epoch(epoch)
        batches, clock = self._open_batches(), time.perf_counter
        self._progress.restart_clock(self.total_iterations)
        self._is_sound, count = True, self.iterations_per_epoch
        for iteration in range(self.iteration, count):
            began = clock()
            data_dict = next(batches, None)
            self._progress.waited += clock() - began
            if data_dict is None:
                raise UserError(
                    f"dataset.train: the loader ended after {iteration} of {count} batches; "
                    "lower progress.iters_per_epoch or set trainer.mode to iter"
                )
            self._is_sound = False
            self._iterate(epoch, iteration, data_dict)
            self._is_sound = True
            if iteration + 1 < count:
                self._after_iteration()
        self._is_sound = False
        self._at_epoch_end()
        for updater in self._updaters.values():
            updater.settle()
        self.epoch, self.iteration = epoch + 1, 0
        summary_dict = self.meters.summary()
        self.meters.reset()
        self.after_train_epoch(epoch, summary_dict)
        if is_due(self.config.progress.epoch_loss, epoch + 1):
            self._monitor.add_scalars("train_epoch", summary_dict, epoch, self.total_iterations)
            add_log(f"epoch {epoch} | train | {format_scalars(summary_dict)}")
        self._plan_epoch_end(epoch)
        self._is_sound = True

    def _run_iteration(self, epoch: int, iteration: int, data_dict: dict) -> None:
        closes_window, weight, size = self._window(iteration)
        if self._transform_batch:
            data_dict = self._transform_batch(data_dict)
        if self._syncs_by_hand:
            set_gradient_sync(self._spread, closes_window)
        if self._before_train_step:
            self._before_train_step(epoch, iteration, data_dict)
        output_dict, result_dict = self._train_step(epoch, iteration, data_dict)
        self._backward(result_dict, weight, closes_window)
        if self._after_backward:
            self._after_backward(epoch, iteration, data_dict, output_dict, result_dict)
        if closes_window:
            for updater in self._updaters.values():
                updater.step((epoch, iteration))
        if self._after_train_step:
            self._after_train_step(epoch, iteration, data_dict, output_dict, result_dict)
        self.iteration = iteration + 1
        self.total_iterations += 1
        if size:
            self.meters.update(result_dict, size)
        if iteration == 0 and is_due(self._draw_every, epoch + 1):
            self._draw("train", epoch, iteration, data_dict, output_dict)
        if self._log_every and self.total_iterations % self._log_every == 0:
            self._log_iteration(epoch, iteration)
        if closes_window:
            self._at_step_end()
        activations.clear()
        if self._advance_bar:
            self._advance_bar()

    @property
    @abstractmethod
    def schedule_length(self) -> int:
        """Steps of the schedule over the whole run, for ``build_scheduler``."""

    @abstractmethod
    def _open_batches(self) -> Iterator[dict]:
        """Return the batches from the present iteration on."""

    @abstractmethod
    def _batch_position(self, iteration: int) -> int:
        """Return an iteration's place in the loader's pass, or in its passes one after another."""

    def _at_step_end(self) -> None:
        """After an optimizer step has been logged."""

    def _at_epoch_end(self) -> None:
        """After an epoch's last iteration."""

    def _step_schedulers(self) -> None:
        for updater in self._updaters.values():
            updater.step_scheduler()

    def _window(self, iteration: int) -> tuple[bool, float | None, int]:
        """Return whether a batch closes its accumulation window, the weight of its loss, and its samples.

        The weight is the batch's share of the window's samples on all ranks, times their number, since they average
        their gradients; None for 1. A window never reaches into the next epoch, so the last may be short.
        """
        size, whole = self._sizes(iteration)
        closes_window, k = True, self.config.trainer.accumulate
        if k > 1:
            start = iteration - iteration % k
            stop = min(start + k, self.iterations_per_epoch)
            closes_window, whole = iteration + 1 == stop, sum(self._sizes(i)[1] for i in range(start, stop))
        weight = size * self._data_size / whole
        return closes_window, None if weight == 1 else weight, size

    def _sizes(self, iteration: int) -> tuple[int, int]:
        """Return the samples of a batch of this epoch, here and on all ranks; 1 each if the loader cannot tell."""
        return self._sizes_at(self._batch_position(iteration)) if self._sizes_at else (1, self._data_size)

    def _backward(self, result_dict: dict, weight: float | None, closes_window: bool) -> None:
        """Differentiate the loss, or with several optimizers each one's own."""
        if "loss" not in result_dict:
            raise UserError(f"train_step: its results have no 'loss' to differentiate, found {', '.join(result_dict)}")
        losses = result_dict["loss"]
        if isinstance(losses, dict):
            result_dict |= {part_name("loss", name): loss for name, loss in losses.items()}
        else:
            losses = {MAIN: losses}
        last = len(losses) - 1
        for i, (name, loss) in enumerate(losses.items()):
            if name not in self._updaters:
                raise UserError(f"train_step: 'loss' for optimizer '{name}', {nearest(name, self._updaters)}")
            self._updaters[name].backward(loss if weight is None else loss * weight, closes_window, i < last)

    def _log_iteration(self, epoch: int, iteration: int) -> None:
        values = self.meters.flush()
        for name, updater in self._updaters.items():
            values |= {part_name(key, name): value for key, value in updater.log_values().items()}
        pace = self._progress.measure(self.total_iterations)
        self._monitor.add_scalars("train", values | pace, epoch, self.total_iterations)
        place, text = f"epoch {epoch} iteration {iteration + 1}/{self.iterations_per_epoch}", format_scalars(values)
        add_log(f"{place} | {text} | {self._progress.describe()}", in_bar=True)
        self._progress.show(text)
