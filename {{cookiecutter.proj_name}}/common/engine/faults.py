"""Looking for a fault: steps that were not made, gradients, and the batch that failed."""

from __future__ import annotations

import torch

from common.config.errors import RunError
from common.diagnose.gradients import check_gradients, dump_batch, gradient_table
from common.engine.trainer_parts import TrainerParts
from common.log.console import add_log
from common.optim.step import Place
from common.run.distributed import any_rank

_LOST_IN_A_ROW = 100


class Faults(TrainerParts):
    """The part of a trainer that finds out what went wrong."""

    def _note_lost_step(self, place: Place, losses: list[torch.Tensor]) -> None:
        """Log a step that was not made, and fail after this iteration if the config says so.

        In fp16 an overflow is part of the method, as long as the loss itself is finite. All ranks come here together.
        """
        self._lost_at = epoch, iteration = place
        bad_loss = any_rank(not all(bool(loss.isfinite().all()) for loss in losses))
        in_a_row = max(updater.lost_in_a_row for updater in self._updaters.values())
        if self.config.trainer.precision == "fp16" and not bad_loss and in_a_row < _LOST_IN_A_ROW:
            return
        what = "the loss" if bad_loss else "a gradient"
        text = f"epoch {epoch} iteration {iteration + 1}: {what} of this batch is not finite, so that no step is made"
        finds = "--debug.debug_mode true finds the operation"
        if in_a_row >= _LOST_IN_A_ROW:
            self._failure = RunError(f"{text}, for the {in_a_row}th time in a row; {finds}")
        elif self.config.trainer.non_finite == "stop":
            self._failure = RunError(f"{text}; {finds}, --trainer.non_finite skip leaves such batches out")
        else:
            add_log(f"{text}; {finds}", "WARNING")

    def _inspect_gradients(self, epoch: int, iteration: int, *dicts: dict) -> None:
        parameters = [(name, p) for model in self._bare.values() for name, p in model.named_parameters()]
        logged = self._log_every and (self.total_iterations + 1) % self._log_every == 0
        if self.config.debug.print_all_grad and logged:
            add_log(f"epoch {epoch} iteration {iteration + 1}\n{gradient_table(parameters)}")
        # In fp16 an overflow is part of the method: the scaler skips that step and lowers its scale.
        if self.config.debug.debug_mode and self.config.trainer.precision != "fp16":
            check_gradients(parameters)
        self.after_backward(epoch, iteration, *dicts)

    def _run_iteration_or_dump(self, epoch: int, iteration: int, data_dict: dict) -> None:
        has_failed = True
        try:
            self._run_iteration(epoch, iteration, data_dict)
            for updater in self._updaters.values():
                updater.settle()
            has_failed = self._lost_at == (epoch, iteration)
        finally:
            if has_failed:
                weights = {name: model.state_dict() for name, model in self._bare.items()}
                path = dump_batch(self.session.folder, epoch, iteration, data_dict, weights)
                place = f"epoch {epoch} iteration {iteration + 1}"
                add_log(f"{place} failed; its batch and the weights are in {path}", "ERROR")
