"""Optimizers and learning rate schedules by name, and warm-up."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from common.config.errors import UserError
from common.config.registry import Registry
from common.config.schema import OptimizerConfig
from common.run.distributed import get_data_size

OPTIMIZER_REGISTRY = Registry("optimizer", fallback="torch.optim")
SCHEDULER_REGISTRY = Registry("schedule", fallback="torch.optim.lr_scheduler")

_LENGTH_ARGUMENTS = ("T_max", "total_iters", "total_steps")  # in which a schedule takes its own length


def build_optimizer(config: OptimizerConfig, parameters: Iterable, where: str = "optim") -> Optimizer:
    """Build the optimizer of a config section, which stands at the key ``where``; fused if the parameters allow it.

    ``parameters`` may be parameter groups, whose own ``lr`` and other keys take precedence. Raise a UserError at an
    unknown name, arguments that do not fit, or an optimizer that needs a closure.
    """
    cls = OPTIMIZER_REGISTRY.get(config.type, f"{where}.type")
    if not (inspect.isclass(cls) and issubclass(cls, Optimizer)) or cls in (Optimizer, torch.optim.LBFGS):
        raise UserError(f"{where}.type: '{config.type}' cannot be stepped once a batch, choose another optimizer")
    accepted = inspect.signature(cls).parameters
    factor = get_data_size() if config.lr_scaling == "linear" else 1
    keys: dict[str, Any] = {"lr": config.lr * factor, **config.args}
    if config.weight_decay or "weight_decay" in accepted:
        keys.setdefault("weight_decay", config.weight_decay)
    section, groups = {"type": config.type, **keys}, _as_groups(parameters)
    is_mixed = any(len(set(map(_layout, group["params"]))) > 1 for group in groups)
    can_be_fused = all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for group in groups for p in group["params"]
    )
    can_choose = "fused" in accepted and not {"fused", "foreach"} & keys.keys()
    try:
        if can_choose and can_be_fused and not is_mixed:
            with suppress(UserError):  # this optimizer has no fused form on this device; other mistakes show below
                return OPTIMIZER_REGISTRY.build(section, where, [dict(group) for group in groups], fused=True)
        if is_mixed and "foreach" in accepted:
            section.setdefault("foreach", False)
        return OPTIMIZER_REGISTRY.build(section, where, groups)
    except TypeError as error:
        raise UserError(f"{where}: {config.type}: {error}") from error


def _as_groups(parameters: Iterable) -> list[dict[str, Any]]:
    """Return parameters or parameter groups as groups whose parameters can be iterated more than once."""
    parameters = list(parameters)
    if parameters and not isinstance(parameters[0], dict):
        parameters = [{"params": parameters}]
    return [{**group, "params": list(group["params"])} for group in parameters]


def _layout(parameter: torch.Tensor) -> tuple:
    """Return how a parameter is sharded: fused and foreach operations take only tensors of the same layout."""
    return getattr(parameter, "device_mesh", None), getattr(parameter, "placements", None)


def build_scheduler(
    config: OptimizerConfig, optimizer: Optimizer, total: int, where: str = "optim"
) -> LRScheduler | ReduceLROnPlateau | None:
    """Build the schedule of a config section, after its linear warm-up; None where there is neither.

    ``total`` is the length of the run in the schedule's unit (epochs or optimizer steps). A schedule whose length is
    not configured takes what the warm-up leaves of it. Raise a UserError at an unknown name or unfit arguments.
    """
    where = f"{where}.lr_scheduler"
    if config.lr_scheduler is None and not config.warmup:
        return None
    if config.lr_scheduler is None:
        return LinearLR(optimizer, config.warmup_factor, total_iters=config.warmup)
    section = dict(config.lr_scheduler)
    cls = SCHEDULER_REGISTRY.get(str(section.get("type")), f"{where}.type")
    for name in inspect.signature(cls).parameters:
        if name in _LENGTH_ARGUMENTS and section.get(name) is None:
            section[name] = max(1, total - config.warmup)
    if cls is LRScheduler:
        raise UserError(f"{where}.type: LRScheduler is the base class of schedules, choose one of them")
    if config.warmup and cls is ReduceLROnPlateau:
        raise UserError(f"{where}: ReduceLROnPlateau cannot follow a warm-up, set warmup to 0")
    try:
        schedule = SCHEDULER_REGISTRY.build(section, where, optimizer)
        if not config.warmup:
            return schedule
        warmup = LinearLR(optimizer, config.warmup_factor, total_iters=config.warmup)
        return SequentialLR(optimizer, [warmup, schedule], milestones=[config.warmup])
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {section['type']}: {error}") from error


def _linear_warmup(step: int, steps: int, factor: float) -> float:
    return factor + (1 - factor) * step / steps if step < steps else 1.0


@SCHEDULER_REGISTRY.register("WarmupMultiStepLR")
def warmup_multi_step(
    optimizer: Optimizer, milestones: list, gamma: float = 0.1, warmup_steps: int = 500, warmup_factor: float = 0.01
) -> LambdaLR:
    """Return a step schedule under a linear warm-up; its milestones count from 0, not from the end of the warm-up.

    Source: He et al., Deep Residual Learning (2016), in the form that detection frameworks made common.
    """

    def factor(step: int) -> float:
        drops = sum(step >= milestone for milestone in milestones)
        return gamma**drops * _linear_warmup(step, warmup_steps, warmup_factor)

    return LambdaLR(optimizer, factor)


@SCHEDULER_REGISTRY.register("WarmUpCosineLR")
def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, warmup_factor: float = 0.01, min_factor: float = 0.0
) -> LambdaLR:
    """Return a linear warm-up followed by half a cosine down to ``min_factor`` times the learning rate.

    Source: Loshchilov and Hutter, SGDR (2017), without restarts.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return _linear_warmup(step, warmup_steps, warmup_factor)
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)


@SCHEDULER_REGISTRY.register("PolyLR")
def poly(optimizer: Optimizer, total_steps: int, power: float = 0.9, min_factor: float = 0.0) -> LambdaLR:
    """Return a polynomial decay, ``(1 - step / total_steps) ** power``, that never goes below ``min_factor``.

    Source: Chen et al., DeepLab (2018).
    """
    return LambdaLR(optimizer, lambda step: max(min_factor, max(0.0, 1 - step / total_steps) ** power))
