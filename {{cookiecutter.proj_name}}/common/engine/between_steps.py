"""What a trainer does between its steps: validate, evaluate, draw, save, and stop where it is asked to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from common.data.batches import find_sizes_at, find_transform, on_device
from common.engine.evaluating import evaluating
from common.engine.faults import Faults
from common.engine.report import format_scalars
from common.log import activations
from common.log.console import add_log
from common.log.meters import Meters
from common.run.distributed import barrier, gather, get_rank
from common.run.seed import random_state_kept
from common.run.signals import Interrupted
from common.sharding.parallel import sync_buffers

_CONFER_EVERY = 1.0  # seconds


class BetweenSteps(Faults):
    """The part of a trainer that runs while the state is sound: any moment of it can be saved and gone on from.

    What is due stands in ``self.due`` and is a part of the state. So a run that is cut in a validation begins that
    validation again, with the same random numbers, before it goes on.
    """

    def _start_conferring(self) -> None:
        self._conferred = self._confer_at = self.total_iterations
        self._conferred_at = self._saved_at = time.monotonic()
        self._pace = 1

    def _after_iteration(self) -> None:
        """After each iteration but an epoch's last one."""
        done = self.total_iterations
        if self._val_every and done % self._val_every == 0:
            self.due = ["validate"]
        if self._keep_every and done % self._keep_every == 0:
            self.keep = ["latest", f"iter_{done:06d}"]
        if self.due or self.keep:
            self._work_off()
        if done >= self._confer_at or self._failure or (self._is_alone and self._stop_request.number):
            self._confer()

    def _plan_epoch_end(self, epoch: int) -> None:
        """Note what is due after an epoch, with what its last iteration asks for."""
        progress, done = self.config.progress, self.total_iterations
        validates = is_due(progress.epoch_val, epoch + 1) or is_due(self._val_every, done)
        self.due = ["validate"] if validates and self.val_loader else []
        self.due += ["evaluate"] if is_due(progress.epoch_eval, epoch + 1) and self.tester else []
        self.keep = ["latest"]
        self.keep += [f"epoch_{epoch + 1:03d}"] if is_due(progress.epoch_save_checkpoint, epoch + 1) else []
        self.keep += [f"iter_{done:06d}"] if is_due(self._keep_every, done) else []

    def _work_off(self) -> None:
        """Do what is due, and then save under the names that are to be kept."""
        while self.due:
            getattr(self, f"_{self.due[0]}")()
            del self.due[0]
        names, self.keep = self.keep, []
        obsolete, self.drop = self.drop, []
        if names:
            self._save(*dict.fromkeys(["latest", *names]), obsolete=obsolete)
        self._progress.restart_clock(self.total_iterations)

    def _save(self, *names: str, obsolete: Iterable[str] = ()) -> None:
        self._checkpointer.save(*names, obsolete=obsolete)
        self._saved_at = time.monotonic()

    def _confer(self) -> None:
        """Let the ranks agree on whether to stop or to save, about once a second: each time costs a message."""
        now, done = time.monotonic(), self.total_iterations
        speed = (done - self._conferred) / max(now - self._conferred_at, 1e-9)
        pace = max(1, min(int(speed * _CONFER_EVERY), 2 * self._pace))
        is_overdue = 0 < self.config.progress.save_time < now - self._saved_at
        numbers, overdue, failed, paces = zip(
            *gather((self._stop_request.number, is_overdue, self._checkpointer.has_failed, pace)), strict=True
        )
        self._pace, self._conferred, self._conferred_at = paces[0], done, now
        self._confer_at = done + self._pace
        if self._failure:
            raise self._failure
        if any(numbers):
            raise Interrupted(next(filter(None, numbers)))
        if any(failed):
            self._checkpointer.wait()
        if any(overdue):
            self._save("latest")

    def _obey(self, loader: DataLoader, iteration: int) -> None:
        """Stop in the midst of an evaluation; several ranks do so where all have the same number of batches."""
        number = self._stop_request.number
        if not self._is_alone:
            asks = find_sizes_at(loader) is not None and iteration % self._pace == 0
            number = next(filter(None, gather(number)), None) if asks else None
        if number:
            raise Interrupted(number)

    def _leave(self, error: BaseException) -> None:
        """Save the state if it is sound and all ranks are here, and say where to go on."""
        agreed = self._is_alone or error is self._failure or isinstance(error, Interrupted)
        reason = f"{error.name} came" if isinstance(error, Interrupted) else "the run ends by an error"
        if self._is_sound and agreed:
            self._save("latest")
            self._checkpointer.wait()
            barrier()  # so that no rank leaves while another still needs it
            add_log(f"{reason}: saved after {self._place()}; --resume {self.session.folder} goes on", "WARNING")
        else:
            add_log(f"{reason} within a step, after {self._place()}; the last save is what counts", "WARNING")

    def _place(self) -> str:
        doing = f"{self.due[0]}, " if self.due else ""
        return f"{doing}epoch {self.epoch} iteration {self.iteration}"

    def _validate(self) -> None:
        """Run over the validation set and follow the best result."""
        epoch = self._epoch_behind()
        with self._evaluating():
            summary_dict = self._val_epoch(epoch)
        is_best = self.selection.update(summary_dict)
        self._monitor.add_scalars("val", summary_dict, epoch, self.total_iterations)
        add_log(f"epoch {epoch} | val | {format_scalars(summary_dict)}")
        for updater in self._updaters.values():
            updater.step_plateau(summary_dict.get(self.selection.metric))
        if is_best:
            self.keep.append(f"best_{self.selection.metric}")
        name = f"best_{self.selection.metric}_iter_{self.total_iterations:06d}"
        dropped = self.selection.place(summary_dict, name)
        self.keep += [name] if name not in dropped else []
        self.drop += [other for other in dropped if other != name]

    def _val_epoch(self, epoch: int) -> dict[str, float]:
        meters, sizes_at, transform = Meters(), find_sizes_at(self.val_loader), find_transform(self.val_loader)
        if self.metric:
            self.metric.reset()
        self.before_val_epoch(epoch)
        for iteration, data_dict in enumerate(on_device(self.val_loader, self.device)):
            self._obey(self.val_loader, iteration)
            data_dict = transform(data_dict) if transform else data_dict
            size = sizes_at(iteration)[0] if sizes_at else 1
            if not size:  # a stand-in, for the sake of what all ranks do together in a sharded model
                self._val_step(epoch, iteration, data_dict)
                continue
            self.before_val_step(epoch, iteration, data_dict)
            output_dict, result_dict = self._val_step(epoch, iteration, data_dict)
            self.after_val_step(epoch, iteration, data_dict, output_dict, result_dict)
            meters.update(result_dict, size)
            if self.metric:
                self.metric.update(output_dict, data_dict)
            if iteration == 0 and self.config.progress.save_progress_val:
                self._draw("val", epoch, iteration, data_dict, output_dict)
            activations.clear()
        summary_dict = meters.summary() | (self.metric.compute() if self.metric else {})
        if self.metric and self.config.progress.save_progress_val:
            for name, figure in self.metric.draw().items():
                self._monitor.add_figure("val", name, figure, self.total_iterations)
        self.after_val_epoch(epoch, summary_dict)
        return summary_dict

    def _evaluate(self) -> None:
        """Run the tester with the present weights and write what it finds to ``eval/``."""
        if self.tester is None:
            return
        self.tester.between_steps = partial(self._obey, self.tester.test_loader)
        with self._evaluating():
            summary_dict = self.tester.run(self.session.folder / "eval" / f"epoch_{self.epoch:03d}")
        self._monitor.add_scalars("eval", summary_dict, self.epoch, self.total_iterations)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Take the models out of their wrappers, and give them their averaged weights where there are such.

        The random numbers inside depend on the seed and the iteration alone, and do not move those of the training.
        """
        averages = [updater.ema for updater in self._updaters.values() if updater.ema]
        training, self.models = self.models, self._val_models
        try:
            with (
                random_state_kept(self.config.trainer.seed, self.total_iterations, get_rank()),
                evaluating(self._bare.values(), averages),
            ):
                sync_buffers(self._bare.values())  # after the averages, of which each rank has its own, are in place
                yield
        finally:
            self.models = training

    @torch.no_grad()
    def _draw(self, split: str, epoch: int, iteration: int, data_dict: dict, output_dict: dict) -> None:
        file = f"epoch{epoch:06d}_iter{iteration:06d}.png" if self.config.progress.local_progress else None
        for name, image in self.render_progress_imgs(data_dict, output_dict).items():
            self._monitor.add_image(split, name, image, self.total_iterations, file and Path(name) / file)

    def _epoch_behind(self) -> int:
        """Return the epoch of the last iteration."""
        return self.epoch if self.iteration else self.epoch - 1


def is_due(every: int, count: int) -> bool:
    """Return whether something that is done every so many times is due after ``count``; never for 0."""
    return every > 0 and count % every == 0
