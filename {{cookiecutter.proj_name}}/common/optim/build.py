"""Optimizers and learning rate schedules by name, and warm-up."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, SequentialLR

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
        reason = "needs a closure that computes the loss anew" if cls is torch.optim.LBFGS else "is no optimizer"
        raise UserError(f"{where}.type: {config.type} {reason}, choose one that makes a step from a batch's gradients")
    accepted = inspect.signature(cls).parameters
    factor = get_data_size() if config.lr_scaling == "linear" else 1
    section: dict[str, Any] = {"type": config.type, "lr": config.lr * factor, **config.args}
    if config.weight_decay or "weight_decay" in accepted:
        section.setdefault("weight_decay", config.weight_decay)
    groups = list(parameters)
    if groups and not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    groups = [{**group, "params": list(group["params"])} for group in groups]
    is_mixed = any(len(set(map(_layout, group["params"]))) > 1 for group in groups)
    can_be_fused = "fused" in accepted and not is_mixed and not {"fused", "foreach"} & section.keys()
    for parameter in (parameter for group in groups for parameter in group["params"]):
        can_be_fused &= parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda", "mps")
    try:
        if can_be_fused:
            with suppress(UserError):  # this optimizer has no fused form on this device; other mistakes show below
                return OPTIMIZER_REGISTRY.build(section, where, [dict(group) for group in groups], fused=True)
        if is_mixed and "foreach" in accepted:
            section.setdefault("foreach", False)
        return OPTIMIZER_REGISTRY.build(section, where, groups)
    except TypeError as error:
        raise UserError(f"{where}: {config.type}: {error}") from error


def _layout(parameter: torch.Tensor) -> tuple:
    """Return how a parameter is sharded: fused and foreach operations take only tensors of the same layout."""
    return getattr(parameter, "device_mesh", None), getattr(parameter, "placements", None)


def build_scheduler(
    config: OptimizerConfig, optimizer: Optimizer, total: int, where: str = "optim"
) -> LRScheduler | None:
    """Build the schedule of a config section, after its linear warm-up; None where there is neither.

    ``total`` is the length of the run in the schedule's unit (epochs or optimizer steps). A schedule whose length is
    not configured takes what the warm-up leaves of it. Raise a UserError at an unknown name or unfit arguments.
    """
    if config.lr_scheduler is None:
        return LinearLR(optimizer, config.warmup_factor, total_iters=config.warmup) if config.warmup else None
    where, section = f"{where}.lr_scheduler", dict(config.lr_scheduler)
    cls = SCHEDULER_REGISTRY.get(str(section.get("type")), f"{where}.type")
    left, planned_for = max(1, total - config.warmup), None
    for name in inspect.signature(cls).parameters:
        if name in _LENGTH_ARGUMENTS and section.get(name) is None:
            section[name], planned_for = left, total
    if cls is LRScheduler:
        raise UserError(f"{where}.type: LRScheduler is the base class of schedules, choose one of them")
    if config.warmup and cls is ReduceLROnPlateau:
        raise UserError(f"{where}: ReduceLROnPlateau cannot follow a warm-up, set warmup to 0")
    own_rates = {group["lr"] for group in optimizer.param_groups}
    try:
        schedule: Any = SCHEDULER_REGISTRY.build(section, where, optimizer)
        if len(own_rates) > 1 and cls in (CyclicLR, OneCycleLR) and len({*schedule.get_last_lr()}) == 1:
            raise ValueError("takes one rate for all parameter groups, and theirs differ; give a list, one for each")
        if isinstance(schedule, OneCycleLR) and schedule.total_steps < left:
            steps = f"its {schedule.total_steps} steps end before the {left} of the run"
            raise ValueError(f"{steps}; leave its length out, and it takes the whole run")
        if config.warmup:
            warmup = LinearLR(optimizer, config.warmup_factor, total_iters=config.warmup)
            schedule = SequentialLR(optimizer, [warmup, schedule], milestones=[config.warmup])
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {section['type']}: {error}") from error
    if planned_for:
        schedule.planned_for = planned_for  # part of its state: see ``Plan``
    return schedule
