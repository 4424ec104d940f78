"""The training loop. Follow a batch from ``run`` downwards: the order of the lines is the order of events."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from common import endpoints
from common.device import move_to
from common.distributed import any_rank
from common.engine.batches import find_size_at
from common.engine.evaluating import evaluating
from common.engine.report import closing_summary, format_scalars, start_banner
from common.engine.trainer_parts import MAIN, TrainerParts, part_name
from common.errors import UserError, nearest
from common.logger import add_log
from common.meters import Meters
from common.parallel import set_gradient_sync, sync_buffers


class BaseTrainer(TrainerParts):
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
        with closing(self._monitor), closing(self._progress):
            if self.config.progress.init_eval:
                self._evaluate()
            while self.epoch < self.config.progress.epoch and not self.selection.should_stop:
                self._train_epoch(self.epoch)
                self._finish_epoch(self.epoch - 1)
            self._save("latest", "final")
        closing_summary(self, began)

    def _train_epoch(self, epoch: int) -> None:
        self.before_train_epoch(epoch)
        for model in self._bare.values():
            model.train()
        for updater in self._updaters.values():
            updater.start_epoch(epoch)
        batches, clock = self._open_batches(), time.perf_counter
        self._progress.restart_clock(self.total_iterations)
        for iteration in range(self.iteration, self.iterations_per_epoch):
            began = clock()
            data_dict = next(batches, None)
            self._progress.waited += clock() - began
            if data_dict is None:
                raise UserError(
                    f"dataset.train: the loader ended after {iteration} of {self.iterations_per_epoch} batches; "
                    "lower progress.iters_per_epoch or set trainer.mode to iter"
                )
            self._iterate(epoch, iteration, data_dict)
        self._at_epoch_end()
        self.epoch, self.iteration = epoch + 1, 0
        summary_dict = self.meters.summary()
        self.meters.reset()
        self.after_train_epoch(epoch, summary_dict)
        if self._due(self.config.progress.epoch_loss, epoch):
            self._monitor.add_scalars("train_epoch", summary_dict, epoch, self.total_iterations)
            add_log(f"epoch {epoch} | train | {format_scalars(summary_dict)}")

    def _run_iteration(self, epoch: int, iteration: int, data_dict: dict) -> None:
        closes_window, share, size = self._window(iteration)
        if self.device.type != "cpu":
            data_dict = move_to(data_dict, self.device)
        if self._syncs_by_hand:
            set_gradient_sync(self._spread, closes_window)
        if self._before_train_step:
            self._before_train_step(epoch, iteration, data_dict)
        output_dict, result_dict = self._train_step(epoch, iteration, data_dict)
        self._backward(result_dict, share, closes_window)
        if self._after_backward:
            self._after_backward(epoch, iteration, data_dict, output_dict, result_dict)
        if closes_window:
            for updater in self._updaters.values():
                updater.step()
            self.optimizer_steps += 1
        if self._after_train_step:
            self._after_train_step(epoch, iteration, data_dict, output_dict, result_dict)
        self.iteration = iteration + 1
        self.total_iterations += 1
        self.meters.update(result_dict, size)
        if iteration == 0 and self._due(self._draw_every, epoch):
            self._draw("train", epoch, iteration, data_dict, output_dict)
        if self._log_every and self.total_iterations % self._log_every == 0:
            self._log_iteration(epoch, iteration)
        if closes_window:
            self._at_step_end()
            self._between_steps(epoch)
        endpoints.clear()
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
        """Return whether a batch closes its accumulation window, its share of the window's samples, and its samples.

        The share is None where it is the whole. A window never reaches into the next epoch, so the last may be short.
        """
        size, count, k = self._batch_size(iteration), self.iterations_per_epoch, self.config.trainer.accumulate
        if k == 1:
            return True, None, size
        start = iteration - iteration % k
        stop = min(start + k, count)
        return iteration + 1 == stop, size / sum(map(self._batch_size, range(start, stop))), size

    def _batch_size(self, iteration: int) -> int:
        """Return how many samples a batch of this epoch holds; 1, and so all alike, if the loader cannot tell."""
        return self._size_at(self._batch_position(iteration)) if self._size_at else 1

    def _backward(self, result_dict: dict, share: float | None, closes_window: bool) -> None:
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
            self._updaters[name].backward(loss if share is None else loss * share, closes_window, i < last)

    def _log_iteration(self, epoch: int, iteration: int) -> None:
        values = self.meters.flush()
        for name, updater in self._updaters.items():
            values |= {part_name(key, name): value for key, value in updater.log_values().items()}
        pace = self._progress.measure(self.total_iterations)
        self._monitor.add_scalars("train", values | pace, epoch, self.total_iterations)
        place, text = f"epoch {epoch} iteration {iteration + 1}/{self.iterations_per_epoch}", format_scalars(values)
        add_log(f"{place} | {text} | {self._progress.describe()}", in_bar=True)
        self._progress.show(text)
        if not all(map(math.isfinite, values.values())):
            add_log(f"{place}: a value is not finite; --debug.debug_mode true finds the operation", "WARNING")

    def _between_steps(self, epoch: int) -> None:
        """Validate and save in the midst of an epoch, where the config asks for it."""
        progress, done, before = self.config.progress, self.total_iterations, self._window_end
        self._window_end = done
        if crosses(progress.iter_val, before, done):
            self._validate(epoch)
        if crosses(progress.iter_save_checkpoint, before, done):
            self._save(f"iter_{done:06d}", "latest")
        # The ranks' clocks differ, so they agree; not at every step, since that costs a message.
        elif crosses(self._log_every or 100, before, done) and any_rank(self._save_is_overdue()):
            self._save("latest")

    def _save_is_overdue(self) -> bool:
        return 0 < self.config.progress.save_time < time.monotonic() - self._saved_at

    def _finish_epoch(self, epoch: int) -> None:
        """Validate, evaluate and save after an epoch, where the config asks for it."""
        progress = self.config.progress
        if self._due(progress.epoch_val, epoch):
            self._validate(epoch)
        if self._due(progress.epoch_eval, epoch):
            self._evaluate()
        kept = [f"epoch_{self.epoch:03d}"] if self._due(progress.epoch_save_checkpoint, epoch) else []
        self._save(*kept, "latest")

    def _validate(self, epoch: int) -> None:
        """Run over the validation set, follow the best result, and save it."""
        if self.val_loader is None or self._validated_at == self.total_iterations:
            return
        self._validated_at = self.total_iterations
        with self._evaluating():
            summary_dict = self._val_epoch(epoch)
        self._monitor.add_scalars("val", summary_dict, epoch, self.total_iterations)
        add_log(f"epoch {epoch} | val | {format_scalars(summary_dict)}")
        try:
            is_best = self.selection.update(summary_dict)
        except UserError:
            self._save("latest")  # a misspelt metric must not cost the epoch
            raise
        for updater in self._updaters.values():
            updater.step_plateau(summary_dict.get(self.selection.metric))
        if is_best:
            self._save(f"best_{self.selection.metric}")
        self._progress.restart_clock(self.total_iterations)

    def _val_epoch(self, epoch: int) -> dict[str, float]:
        meters, size_at = Meters(), find_size_at(self.val_loader)
        if self.metric:
            self.metric.reset()
        self.before_val_epoch(epoch)
        for iteration, data_dict in enumerate(self.val_loader):
            data_dict = move_to(data_dict, self.device)
            self.before_val_step(epoch, iteration, data_dict)
            output_dict, result_dict = self._val_step(epoch, iteration, data_dict)
            self.after_val_step(epoch, iteration, data_dict, output_dict, result_dict)
            meters.update(result_dict, size_at(iteration) if size_at else 1)
            if self.metric:
                self.metric.update(output_dict, data_dict)
            if iteration == 0 and self.config.progress.save_progress_val:
                self._draw("val", epoch, iteration, data_dict, output_dict)
            endpoints.clear()
        summary_dict = meters.summary() | (self.metric.compute() if self.metric else {})
        self.after_val_epoch(epoch, summary_dict)
        return summary_dict

    def _evaluate(self) -> None:
        """Run the tester with the present weights and write what it finds to ``eval/``."""
        if self.tester is None:
            return
        with self._evaluating():
            summary_dict = self.tester.run(self.session.folder / "eval" / f"epoch_{self.epoch:03d}")
        self._monitor.add_scalars("eval", summary_dict, self.epoch, self.total_iterations)
        self._progress.restart_clock(self.total_iterations)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Take the models out of their wrappers, and give them their averaged weights where there are such."""
        averages = [updater.ema for updater in self._updaters.values() if updater.ema]
        sync_buffers(self._bare.values())
        training, self.models = self.models, self._val_models
        try:
            with evaluating(self._bare.values(), averages):
                yield
        finally:
            self.models = training

    @torch.no_grad()
    def _draw(self, split: str, epoch: int, iteration: int, data_dict: dict, output_dict: dict) -> None:
        file = f"epoch{epoch:06d}_iter{iteration:06d}.png" if self.config.progress.local_progress else None
        for name, image in self.render_progress_imgs(data_dict, output_dict).items():
            self._monitor.add_image(split, name, image, self.total_iterations, file and Path(name) / file)

    def _save(self, *names: str) -> None:
        self._monitor.flush()
        self._checkpointer.save(*names)
        self._saved_at = time.monotonic()

    def _due(self, every: int, epoch: int) -> bool:
        return every > 0 and (epoch + 1) % every == 0


def crosses(every: int, before: int, now: int) -> bool:
    """Return whether a multiple of ``every`` lies in (before, now]; never for 0."""
    return every > 0 and now // every > before // every
