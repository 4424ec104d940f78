"""One optimizer and everything around its step: loss scaling, clipping, the schedule, the average of the weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from common.config.errors import UserError
from common.config.schema import OptimizerConfig
from common.log.console import add_log
from common.run.distributed import gather_data, get_data_rank, get_data_size
from common.run.strategy import WHOLE, Strategy

Place = tuple[int, int]  # epoch and iteration


class OptimizerStep:
    """Turns losses into new weights for the parameters of one optimizer, which stay the same from here on.

    A step whose losses or gradients are not finite is skipped: weights, optimizer, schedule, average and step count
    stay as they are. With a fused optimizer on CUDA the device skips it without the host, which learns of it at the
    next step, in ``settle``; otherwise the host decides at once.

    Args:
        model: The unwrapped model whose weights are averaged.
        only: Restrict each backward pass to this optimizer's parameters, since several optimizers share a graph.
        on_skipped: Called for each skipped step, with its place and the losses of its window.
        length: The length of the run in steps of the schedule. A schedule that is planned for it moves with the run,
            even where this optimizer has no loss, as a GAN's generator may; any other one counts the optimizer's steps.
        epochs: The length of the run in epochs.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        config: OptimizerConfig,
        model: nn.Module,
        precision: str = "fp32",
        only: bool = False,
        on_skipped: Callable[[Place, list[torch.Tensor]], None] = lambda place, losses: None,
        strategy: Strategy = WHOLE,
        length: int = 1,
        epochs: int = 1,
    ):
        self.optimizer, self.scheduler = optimizer, scheduler
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        device = self.parameters[0].device.type
        self.ema = EMA(model, config.ema_decay, strategy) if config.ema_decay else None
        self.scaler = torch.amp.GradScaler(device) if precision == "fp16" else None
        self.grad_norm: torch.Tensor | None = None
        self.steps = self.skipped_in_a_row = 0
        self._config, self._on_skipped, self._strategy = config, on_skipped, strategy
        self._norm = getattr(strategy, "global_norm", global_norm)  # a sharded strategy has its own
        self._schedule = None if isinstance(scheduler, ReduceLROnPlateau) else scheduler
        self._plan = Plan(scheduler, length / epochs) if scheduler else None
        self.spans_run = getattr(scheduler, "planned_for", None) == length
        self._inputs = self.parameters if only else None
        self._averages = strategy.averages_at_step(alone=not only)
        self._clip, self._clip_limit = clip_by_norm if config.clip_by == "norm" else clip_by_value, 0.0
        self._on_cpu = device == "cpu"
        self._device_decides = device == "cuda" and bool(optimizer.defaults.get("fused")) and not strategy.is_sharded
        self._losses: list[torch.Tensor] = []
        # A step that the device decides, until the host learns of it: whether it was made, its place and losses.
        self._pending: tuple[torch.Tensor, Place, list[torch.Tensor]] | None = None
        self._moved = self._tried = self._schedule_is_due = self._is_complete = False

    def start_epoch(self, epoch: int) -> None:
        """Choose the clipping limit of this epoch: ``clip_gradients_warmup`` from epoch ``clip_warmup`` on."""
        late = 0 <= self._config.clip_warmup <= epoch
        self._clip_limit = self._config.clip_gradients_warmup if late else self._config.clip_gradients

    def backward(self, loss: torch.Tensor, closes_window: bool = True, retain_graph: bool = False) -> None:
        """Add the gradients of a loss (one element) to those of this window; with its last loss they are complete.

        A loss that is not finite makes every gradient NaN, on all ranks, even where its own gradient would be finite.
        """
        value = loss.detach()
        self._losses.append(value)
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
            value = loss.detach()
        # Reading a value is free on a CPU; elsewhere it would wait for the device.
        start = None if self._on_cpu and math.isfinite(value.item()) else value * 0 + 1
        torch.autograd.backward(loss, start, retain_graph=retain_graph, inputs=self._inputs)
        if closes_window and (self._averages or self.scaler is not None):
            self._complete()

    def step(self, place: Place = (0, 0)) -> None:
        """Clip, step, average, and drop the gradients; a window without a loss does nothing."""
        if self._device_decides:
            self.settle()
        losses, self._losses = self._losses, []
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if not gradients:
            return
        if self._averages or self.scaler is not None:
            self._complete()
        norm = self.grad_norm = self._norm(gradients)
        if self._clip_limit:
            parts = self._strategy.local(gradients) if self._strategy.is_sharded else gradients
            self._clip(parts, self._clip_limit, norm)
        # The host decides the first step: it allocates the optimizer's state, which the device would leave unfilled.
        optimizer: Any = self.optimizer
        on_device, finite = self._device_decides and bool(optimizer.state), None
        if on_device:
            finite = norm.isfinite()
            optimizer.found_inf = 1 - finite.float()
            self._pending = self._send(finite), place, losses
        moved = on_device or math.isfinite(norm.item())
        if moved:
            optimizer.step()
            if self.ema is not None:
                self.ema.update(finite)
        if self.scaler is not None:
            self.scaler.update()
        self._is_complete = False
        for parameter in self.parameters:
            parameter.grad = None
        if not on_device:
            self._count(moved, place, losses)

    def settle(self) -> None:
        """Learn the outcome of a step that the device decided, then update the counters and the schedule."""
        if self._pending is not None:
            (sent, place, losses), self._pending = self._pending, None
            moved = self._receive(sent)
            if self.ema is not None and not moved:
                self.ema.updates -= 1
            self._count(moved, place, losses)
        if self._schedule_is_due:
            if self._schedule is not None and self._moved:
                self._schedule.step()
            elif self._schedule is not None and self.spans_run and not self._tried:
                with warnings.catch_warnings(action="ignore"):  # torch expects the optimizer to have stepped
                    self._schedule.step()
            self._moved = self._tried = self._schedule_is_due = False

    def step_scheduler(self) -> None:
        """Advance the schedule by one, unless it is a plateau's or every step since the last time was skipped."""
        self._schedule_is_due = True
        if self._pending is None:
            self.settle()

    def step_plateau(self, score: float | None) -> None:
        """Show a ReduceLROnPlateau the validation result that it watches."""
        if isinstance(self.scheduler, ReduceLROnPlateau) and score is not None:
            self.scheduler.step(score)

    def log_values(self) -> dict[str, float]:
        """Return ``learning_rate``, ``learning_rate_1`` if group 1 has its own, and ``grad_norm`` before clipping."""
        rates = [(float(group["lr"]), group.get("initial_lr")) for group in self.optimizer.param_groups]
        values = {f"learning_rate_{i}": rate[0] for i, rate in enumerate(rates) if rate != rates[0]}
        values = {"learning_rate": rates[0][0]} | values
        return values if self.grad_norm is None else values | {"grad_norm": self.grad_norm.item()}

    def take_argument(self, name: str, fresh: list[dict[str, Any]]) -> None:
        """Take over an argument that the config has changed for a resumed run, from new parameter groups.

        A changed ``lr`` scales the rate which its schedule has reached, and those to come. Raise a UserError if the
        argument has no effect, or if the optimizer's state depends on it.
        """
        before = [(group.get("initial_lr"), group.get(name)) for group in self.optimizer.param_groups]
        for i, (group, new) in enumerate(zip(self.optimizer.param_groups, fresh, strict=True)):
            old, value = group.get(name), new.get(name)
            if name == "lr" and "initial_lr" in group:
                ratio = new["initial_lr"] / group["initial_lr"]
                group["lr"], group["initial_lr"] = old * ratio, new["initial_lr"]
                scale_rates(self._schedule, i, ratio)
            elif isinstance(value, bool) or (bool(value) != bool(old) and name != "weight_decay"):
                raise UserError(f"optim: {name} of {type(self.optimizer).__name__} cannot change within a run")
            else:
                group[name] = value
        if before == [(group.get("initial_lr"), group.get(name)) for group in self.optimizer.param_groups]:
            raise UserError(f"optim.{name} was changed, but no parameter group of this run depends on it")

    def parts(self) -> dict[str, Any]:
        """Return the parts of a checkpoint by kind; scheduler, scaler and ema only where they exist."""
        # The updater is first: it settles the last step, which the states of the others depend on.
        parts = {"updater": self, "optimizer": self._strategy.optimizer_part(self.optimizer)}
        parts |= {"scheduler": self._plan, "scaler": self.scaler, "ema": self.ema}
        return {kind: part for kind, part in parts.items() if part is not None}

    def state_dict(self) -> dict:
        """Return the counters, the last norm and, within an accumulation window, each rank's gradients. Collective."""
        self.settle()
        own = {i: p.grad for i, p in enumerate(self.parameters) if p.grad is not None}
        # Sharded ones are the mean over all ranks already.
        saved = [own] if self._strategy.is_sharded else gather_data({i: grad.cpu() for i, grad in own.items()})
        counters = {"steps": self.steps, "lost_in_a_row": self.skipped_in_a_row}
        counters |= {"moved": self._moved, "tried": self._tried}
        return counters | {"grad_norm": self.grad_norm, "gradients": saved}

    def load_state_dict(self, state: dict) -> None:
        """Resume from ``state_dict``; if the number of ranks has changed, each takes the mean of the gradients."""
        self.steps, self.skipped_in_a_row, self._moved = state["steps"], state["lost_in_a_row"], state["moved"]
        self._tried, self.grad_norm, saved = state.get("tried", self._moved), state["grad_norm"], state["gradients"]
        if len(saved) == get_data_size() and not self._strategy.is_sharded:
            saved = [saved[get_data_rank()]]
        gradients = saved[0]
        if len(saved) > 1:
            gradients = {i: torch.stack([one[i] for one in saved]).mean(0) for i in gradients}
        for i, gradient in self._strategy.distribute(gradients, dict(enumerate(self.parameters))).items():
            self.parameters[i].grad = gradient.to(self.parameters[i]).clone()

    def _complete(self) -> None:
        """Average the gradients over the ranks, unless backward does so, and unscale them (fp16); once a window."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if self._is_complete or not gradients:
            return
        if self._averages:
            average_over_ranks(gradients)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self._is_complete = True

    def _count(self, moved: bool, place: Place, losses: list[torch.Tensor]) -> None:
        self._tried = True
        if moved:
            self.steps += 1
            self._moved, self.skipped_in_a_row = True, 0
        else:
            self.skipped_in_a_row += 1
            self._on_skipped(place, losses)

    def _send(self, finite: torch.Tensor) -> torch.Tensor:
        sent = torch.empty_like(finite, device="cpu", pin_memory=True).copy_(finite, non_blocking=True)
        self._arrived = torch.cuda.current_stream().record_event()
        return sent

    def _receive(self, sent: torch.Tensor) -> bool:
        self._arrived.synchronize()  # the device has had the next forward and backward pass to get there
        return bool(sent)


class Plan:
    """A schedule as part of a checkpoint. One that was planned for a run of another length is planned anew on resume.

    From there on its rates are those of a run that had the new length from the start; where an epoch has another number
    of steps now, at the same epoch. ``per_epoch`` is that number.
    """

    def __init__(self, schedule: Any, per_epoch: float):
        self._schedule, self._per_epoch = schedule, per_epoch
        self._initial = [group.get("initial_lr") for group in schedule.optimizer.param_groups]

    def state_dict(self) -> dict:
        """Return the schedule's state and its steps an epoch."""
        return self._schedule.state_dict() | {"per_epoch": self._per_epoch}

    def load_state_dict(self, state: dict) -> None:
        """Resume from ``state_dict``; the optimizer's own state has been loaded before."""
        state, schedule, length = dict(state), self._schedule, getattr(self._schedule, "planned_for", None)
        scale, before = self._per_epoch / state.pop("per_epoch", self._per_epoch), state.get("planned_for")
        if length is None or (before == length and scale == 1):
            schedule.load_state_dict(state)
            return
        groups = schedule.optimizer.param_groups
        old_rate = groups[0]["lr"]
        for i, (group, rate) in enumerate(zip(groups, schedule.get_last_lr(), strict=True)):
            ratio = group["initial_lr"] / self._initial[i]  # another learning rate is taken over afterwards
            group["lr"] = rate * ratio
            scale_rates(schedule, i, ratio)
        with warnings.catch_warnings(action="ignore"):  # torch expects the optimizer to step in between
            for _ in range(round(state["last_epoch"] * scale)):
                schedule.step()
        if before is not None or not math.isclose(groups[0]["lr"], old_rate):  # the first releases do not say
            planned = f"was planned for {before or 'another number of'} steps and is planned anew for {length}"
            rates = f"from here on its rate is {groups[0]['lr']:.4g} instead of {old_rate:.4g}"
            add_log(f"the learning rate schedule {planned}; {rates}", "WARNING")


def scale_rates(schedule: Any, group: int, ratio: float) -> None:
    """Multiply the learning rates that a schedule is to give to a parameter group."""
    for one in (schedule, *getattr(schedule, "_schedulers", ())):
        if hasattr(one, "base_lrs"):
            one.base_lrs[group] *= ratio


class EMA:
    """The exponential moving average of an unwrapped model's weights and floating buffers, lent to it for evaluation.

    The decay rises over the first updates, ``min(decay, (1 + n) / (10 + n))``, so that a short run does not evaluate
    its random start. Source: Polyak and Juditsky (1992); TensorFlow's ExponentialMovingAverage for the rising decay.
    """

    def __init__(self, model: nn.Module, decay: float, strategy: Strategy = WHOLE):
        state = {name: tensor.detach() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        self._weights = {name: tensor.clone() for name, tensor in state.items()}
        self._source, self._average = strategy.local(state.values()), strategy.local(self._weights.values())
        self._model, self._strategy = model, strategy
        self.decay, self.updates = decay, 0

    def update(self, moved: torch.Tensor | None = None) -> None:
        """Move the average toward the model's weights. Where the host does not know yet whether these have moved,
        ``moved`` is that boolean on the device; if it turns out to be false, the caller takes one from ``updates``.
        """
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        if moved is None:
            torch._foreach_lerp_(self._average, self._source, share)
        else:
            step = torch._foreach_sub(self._source, self._average)
            torch._foreach_mul_(step, moved * share)
            torch._foreach_add_(self._average, step)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Let the model hold the average inside the ``with``; its own weights come back afterwards, bit for bit."""
        kept = [tensor.clone() for tensor in self._source]
        try:
            self._set_model(self._average)
            yield
        finally:
            self._set_model(kept)

    def state_dict(self) -> dict:
        """Return the average by parameter name, and the number of updates."""
        return {"updates": self.updates, "weights": dict(self._weights)}

    def load_state_dict(self, state: dict) -> None:
        """Resume from the average of ``state_dict``."""
        self.updates = state["updates"]
        saved = self._strategy.distribute(state["weights"], self._weights)
        torch._foreach_copy_(self._average, self._strategy.local(saved[name] for name in self._weights))

    def _set_model(self, tensors: list[torch.Tensor]) -> None:
        self._strategy.reshard(self._model)
        torch._foreach_copy_(self._source, tensors)


def average_over_ranks(gradients: list[torch.Tensor]) -> None:
    """Replace gradients by their mean over all ranks, in one message. Collective."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    means = flat.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [mean.view_as(one) for mean, one in zip(means, gradients, strict=True)])


def global_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Return the norm of all gradients, a scalar on their device: finite if they are and no square overflows."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_by_norm(gradients: list[torch.Tensor], limit: float, norm: torch.Tensor) -> None:
    """Do what ``torch.nn.utils.clip_grad_norm_`` does, without listing the parameters again for their ``norm``."""
    if norm.device.type != "cpu" or norm.dtype not in (torch.float32, torch.float64):
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp_(max=1.0))
        return
    # The same arithmetic, bit for bit, on numbers: each tensor operation costs as much as all of it.
    value = norm.numpy()[()]
    number: Any = type(value)
    factor = number(limit) * (number(1) / (value + number(1e-6)))
    if not factor >= 1:
        torch._foreach_mul_(gradients, float(factor))


def clip_by_value(gradients: list[torch.Tensor], limit: float, norm: torch.Tensor | None = None) -> None:
    """Limit each value of the gradients to [-limit, limit], in place, whatever their norm."""
    torch._foreach_clamp_min_(gradients, -limit)
    torch._foreach_clamp_max_(gradients, limit)
