"""One optimizer and all that happens around its step: scaling, clipping, the schedule, the average of the weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from common.ema import EMA
from common.optim import clip_gradients_by_norm, clip_gradients_by_value
from common.schema import OptimizerConfig

Scheduler = LRScheduler | ReduceLROnPlateau


class Updater:
    """Turns losses into new weights for the parameters of one optimizer.

    Args:
        optimizer: Already built over its parameters, which stay the same from here on.
        scheduler: Its schedule, if any.
        config: Its section: clipping and the decay of the average.
        model: The bare model whose weights are averaged.
        precision: ``fp16`` scales the losses.
        only: Restrict each backward pass to this optimizer's parameters: several optimizers share a graph.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: Scheduler | None,
        config: OptimizerConfig,
        model: nn.Module,
        precision: str = "fp32",
        only: bool = False,
    ):
        self.optimizer, self.scheduler = optimizer, scheduler
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.ema = EMA(model, config.ema_decay) if config.ema_decay else None
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type) if precision == "fp16" else None
        self.grad_norm: torch.Tensor | None = None
        self.stepped = False
        self._config = config
        self._inputs = self.parameters if only else None
        self._clip_limit = 0.0
        self._unscaled = self._moved = False

    def start_epoch(self, epoch: int) -> None:
        """Choose the clipping limit of this epoch: ``clip_gradients_warmup`` from epoch ``clip_warmup`` on."""
        config = self._config
        late = 0 <= config.clip_warmup <= epoch
        self._clip_limit = config.clip_gradients_warmup if late else config.clip_gradients

    def backward(self, loss: torch.Tensor, closes_window: bool = True, retain_graph: bool = False) -> None:
        """Add the gradients of a loss (one element) to those of this window, whose close rids them of fp16's scale."""
        if self.scaler is None:
            loss.backward(inputs=self._inputs, retain_graph=retain_graph)
            return
        self.scaler.scale(loss).backward(inputs=self._inputs, retain_graph=retain_graph)
        if closes_window:
            self._unscale(self.scaler)

    def step(self) -> None:
        """Clip, step, average, and drop the gradients.

        ``stepped`` tells whether the weights moved: not where no loss came in this window or fp16's scaler skipped it.
        """
        self.stepped = self._has_gradients()
        if not self.stepped:
            return
        if self.scaler is not None:
            self._unscale(self.scaler)
        if self._clip_limit:
            self._clip([p.grad for p in self.parameters if p.grad is not None])
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.stepped = self._scaled_step(self.scaler)
        if self.stepped:
            self._moved = True
            if self.ema is not None:
                self.ema.update()
        for parameter in self.parameters:
            parameter.grad = None

    def step_scheduler(self) -> None:
        """Advance the schedule by one, unless no step was made since the last time, or it waits for a validation."""
        if self._moved and self.scheduler is not None and not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()
        self._moved = False

    def step_plateau(self, score: float | None) -> None:
        """Show a ReduceLROnPlateau the validation result that it watches."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(score)

    def log_values(self) -> dict[str, float]:
        """Return the learning rate now, and the last norm of the gradients while they are clipped by norm.

        Further parameter groups have ``learning_rate_<i>``.
        """
        groups = self.optimizer.param_groups
        values = {f"learning_rate_{i}" if i else "learning_rate": float(group["lr"]) for i, group in enumerate(groups)}
        return values if self.grad_norm is None else values | {"grad_norm": self.grad_norm.item()}

    def parts(self) -> dict[str, object]:
        """Return what a checkpoint must hold, by kind: optimizer, and scheduler, scaler, ema where there are such."""
        parts = {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler, "ema": self.ema}
        return {kind: part for kind, part in parts.items() if part is not None}

    def _clip(self, gradients: list[torch.Tensor]) -> None:
        if not gradients:
            return
        if self._config.clip_by == "norm":
            self.grad_norm = clip_gradients_by_norm(gradients, self._clip_limit)
        else:
            clip_gradients_by_value(gradients, self._clip_limit)

    def _has_gradients(self) -> bool:
        return any(parameter.grad is not None for parameter in self.parameters)

    def _unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Divide the gradients by the scaler's scale, once a window."""
        if not self._unscaled and self._has_gradients():
            scaler.unscale_(self.optimizer)
            self._unscaled = True

    def _scaled_step(self, scaler: torch.amp.GradScaler) -> bool:
        """Step unless a gradient overflowed, and return whether that was so."""
        scale, self._unscaled = scaler.get_scale(), False
        scaler.step(self.optimizer)
        scaler.update()
        # The scaler lowers its scale exactly when it met a value that is not finite; it then left the weights alone.
        return scaler.get_scale() >= scale
