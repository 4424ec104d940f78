"""One optimizer and all that happens around its step: scaling, clipping, the schedule, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from common.config.schema import OptimizerConfig
from common.optim.build import clip_gradients_by_norm, clip_gradients_by_value, global_norm
from common.optim.ema import EMA
from common.run.distributed import gather_data, get_data_rank, get_data_size
from common.sharding.tensors import is_spread, local_parts, spread_like, whole_optimizer

Scheduler = LRScheduler | ReduceLROnPlateau
Place = tuple[int, int]


class _Outcome(NamedTuple):
    """Whether a step was made, where it was due, and the losses behind it."""

    moved: bool | torch.Tensor
    place: Place
    losses: list[torch.Tensor]


class Updater:
    """Turns losses into new weights for the parameters of one optimizer.

    A step whose losses or gradients are not finite is not made: weights, optimizer, schedule, average and counters stay
    as they are. Where the device computes beside the host (CUDA) and the optimizer is fused, the device decides that
    by itself, and the host learns of it with the next step, in ``settle``; otherwise the host decides at once.

    Args:
        optimizer: Already built over its parameters, which stay the same from here on.
        scheduler: Its schedule, if any.
        config: Its section: clipping and the decay of the average.
        model: The bare model whose weights are averaged.
        precision: ``fp16`` scales the losses.
        only: Restrict each backward pass to this optimizer's parameters: several optimizers share a graph.
        on_lost: Called for each step that was not made, with its place and the window's losses.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: Scheduler | None,
        config: OptimizerConfig,
        model: nn.Module,
        precision: str = "fp32",
        only: bool = False,
        on_lost: Callable[[Place, list[torch.Tensor]], None] = lambda place, losses: None,
    ):
        self.optimizer, self.scheduler = optimizer, scheduler
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.ema = EMA(model, config.ema_decay) if config.ema_decay else None
        device = self.parameters[0].device.type
        self.scaler = torch.amp.GradScaler(device) if precision == "fp16" else None
        self.grad_norm: torch.Tensor | None = None
        self.steps = self.lost_in_a_row = 0
        self._config, self._on_lost = config, on_lost
        self._inputs = self.parameters if only else None
        self._clip_limit = 0.0
        self._on_cpu = device == "cpu"
        self._is_sharded = is_spread(self.parameters)
        self._device_decides = device == "cuda" and bool(optimizer.defaults.get("fused")) and not self._is_sharded
        self._losses: list[torch.Tensor] = []
        self._outcome: _Outcome | None = None
        self._moved = self._schedule_is_due = self._unscaled = False

    def start_epoch(self, epoch: int) -> None:
        """Choose the clipping limit of this epoch: ``clip_gradients_warmup`` from epoch ``clip_warmup`` on."""
        config = self._config
        late = 0 <= config.clip_warmup <= epoch
        self._clip_limit = config.clip_gradients_warmup if late else config.clip_gradients

    def backward(self, loss: torch.Tensor, closes_window: bool = True, retain_graph: bool = False) -> None:
        """Add the gradients of a loss (one element) to those of this window, whose close rids them of fp16's scale.

        A loss that is not finite makes every gradient NaN, on all ranks, even where its own gradient would be finite.
        """
        self._losses.append(loss.detach())
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        # A CPU's value is read in no time; elsewhere reading it would wait for the device.
        is_fine = self._on_cpu and math.isfinite(scaled.item())
        scaled.backward(None if is_fine else scaled.detach() * 0 + 1, inputs=self._inputs, retain_graph=retain_graph)
        if closes_window:
            self._unscale()

    def step(self, place: Place = (0, 0)) -> None:
        """Clip, step, average, and drop the gradients; nothing happens in a window without a loss.

        Args:
            place: Epoch and iteration, for ``on_lost``.
        """
        self.settle()
        gradients, losses = self._gradients(), self._losses
        self._losses = []
        if not gradients:
            return
        self._unscale()
        norm = self.grad_norm = global_norm(gradients, self._is_sharded)
        if self._clip_limit:
            parts = local_parts(gradients) if self._is_sharded else gradients
            if self._config.clip_by == "norm":
                clip_gradients_by_norm(parts, self._clip_limit, norm)
            else:
                clip_gradients_by_value(parts, self._clip_limit)
        # The first step allots the optimizer's state, which torch leaves unfilled where the device passes it over.
        if self._device_decides and self.optimizer.state:
            self._outcome = _Outcome(self._step_on_device(norm.isfinite()), place, losses)
        else:
            self._outcome = _Outcome(self._step_now(norm), place, losses)
        if self.scaler is not None:
            self.scaler.update()
            self._unscaled = False
        for parameter in self.parameters:
            parameter.grad = None
        if not self._device_decides:
            self.settle()

    def settle(self) -> None:
        """Learn how the last step went, and let what depends on it follow: the counters and the schedule."""
        outcome, self._outcome = self._outcome, None
        if outcome is not None:
            moved = outcome.moved
            if isinstance(moved, torch.Tensor):
                moved = self._receive(moved)
                if self.ema is not None and not moved:
                    self.ema.updates -= 1
            self.steps += moved
            self._moved |= moved
            self.lost_in_a_row = 0 if moved else self.lost_in_a_row + 1
            if not moved:
                self._on_lost(outcome.place, outcome.losses)
        if self._schedule_is_due:
            self._schedule_is_due = False
            if self._moved and self.scheduler is not None and not isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step()
            self._moved = False

    def step_scheduler(self) -> None:
        """Advance the schedule by one, unless no step was made since the last time, or it waits for a validation."""
        self._schedule_is_due = True
        if self._outcome is None:
            self.settle()

    def step_plateau(self, score: float | None) -> None:
        """Show a ReduceLROnPlateau the validation result that it watches."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(score)

    def log_values(self) -> dict[str, float]:
        """Return the learning rate now, and the last norm of the gradients, before they were clipped.

        Further parameter groups have ``learning_rate_<i>``.
        """
        groups = self.optimizer.param_groups
        values = {f"learning_rate_{i}" if i else "learning_rate": float(group["lr"]) for i, group in enumerate(groups)}
        return values if self.grad_norm is None else values | {"grad_norm": self.grad_norm.item()}

    def parts(self) -> dict[str, object]:
        """Return what a checkpoint must hold, by kind; scheduler, scaler and ema where there are such."""
        parts = {
            "optimizer": whole_optimizer(self.optimizer),
            "scheduler": self.scheduler,
            "scaler": self.scaler,
            "ema": self.ema,
        }
        # The updater comes first: it settles the last step, which the others' states depend on.
        return {"updater": self} | {kind: part for kind, part in parts.items() if part is not None}

    def state_dict(self) -> dict:
        """Return the counters, the last norm and, within an accumulation window, each rank's gradients. Collective.

        A sharded model's gradients are the mean over all ranks already.
        """
        self.settle()
        gradients = {i: p.grad for i, p in enumerate(self.parameters) if p.grad is not None}
        if self._is_sharded:
            every = [gradients]
        else:
            every = gather_data({i: gradient.cpu() for i, gradient in gradients.items()})
        counters = {"steps": self.steps, "lost_in_a_row": self.lost_in_a_row, "moved": self._moved}
        return counters | {"grad_norm": self.grad_norm, "gradients": every}

    def load_state_dict(self, state: dict) -> None:
        """Go on from ``state_dict``; where the ranks were others, each takes the mean of their gradients."""
        self.steps, self.lost_in_a_row, self._moved = state["steps"], state["lost_in_a_row"], state["moved"]
        self.grad_norm, saved = state["grad_norm"], state["gradients"]
        mine = [saved[get_data_rank()]] if len(saved) == get_data_size() and not self._is_sharded else saved
        gradients = mine[0]
        if len(mine) > 1:
            gradients = {i: torch.stack([one[i] for one in mine]).mean(0) for i in gradients}
        for i, gradient in spread_like(gradients, dict(enumerate(self.parameters))).items():
            self.parameters[i].grad = gradient.to(self.parameters[i]).clone()

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _unscale(self) -> None:
        """Divide the gradients by the scaler's scale, once a window."""
        if self.scaler is not None and not self._unscaled and self._gradients():
            self.scaler.unscale_(self.optimizer)
            self._unscaled = True

    def _step_now(self, norm: torch.Tensor) -> bool:
        """Step if the norm of the gradients is finite, and return whether that was so."""
        moved = math.isfinite(norm.item())
        if moved:
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update()
        return moved

    def _step_on_device(self, finite: torch.Tensor) -> torch.Tensor:
        """Let the device step if that truth value holds, and begin to bring it to the host."""
        self.optimizer.found_inf = 1 - finite.float()
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(finite)
        return self._send(finite)

    def _send(self, finite: torch.Tensor) -> torch.Tensor:
        """Begin to bring a truth value to the host."""
        moved = torch.empty_like(finite, device="cpu", pin_memory=True).copy_(finite, non_blocking=True)
        self._arrived = torch.cuda.current_stream().record_event()
        return moved

    def _receive(self, moved: torch.Tensor) -> bool:
        self._arrived.synchronize()  # the device has had the next forward and backward pass to get here
        return bool(moved)
