"""Optimizers and schedules by name, warm-up, and gradient clipping."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from common.config.errors import UserError
from common.config.registry import Registry
from common.config.schema import OptimizerConfig
from common.run.distributed import get_data_size

OPTIMIZER_REGISTRY = Registry("optimizer", fallback="torch.optim")
SCHEDULER_REGISTRY = Registry("schedule", fallback="torch.optim.lr_scheduler")

# The arguments in which torch's schedules, and ours, take their own length.
_LENGTH_ARGUMENTS = ("T_max", "total_iters", "total_steps")


def build_optimizer(config: OptimizerConfig, parameters: Iterable, where: str = "optim") -> Optimizer:
    """Build the optimizer that a config section names, in torch's fused form where these parameters allow it.

    Args:
        config: The section.
        parameters: Parameters, or parameter groups, whose own ``lr`` and other keys come first.
        where: The section's place in the config, for messages.

    Raises:
        UserError: An unknown name, arguments that do not fit, or an optimizer that needs a closure.
    """
    cls = OPTIMIZER_REGISTRY.get(config.type, f"{where}.type")
    if not (inspect.isclass(cls) and issubclass(cls, Optimizer)) or cls in (Optimizer, torch.optim.LBFGS):
        raise UserError(f"{where}.type: '{config.type}' cannot be stepped once a batch, choose another optimizer")
    accepted = inspect.signature(cls).parameters
    factor = get_data_size() if config.lr_scaling == "linear" else 1
    keys: dict[str, Any] = {"lr": config.lr * factor, **config.args}
    if config.weight_decay or "weight_decay" in accepted:
        keys.setdefault("weight_decay", config.weight_decay)
    section, groups = {"type": config.type, **keys}, as_groups(parameters)
    try:
        is_mixed = any(len(by_layout(group["params"])) > 1 for group in groups)
        may_choose = "fused" in accepted and not {"fused", "foreach"} & keys.keys()
        if may_choose and not is_mixed and all(map(_can_be_fused, groups)):
            with suppress(RuntimeError):  # this optimizer has no fused form on this device
                return OPTIMIZER_REGISTRY.build(section, where, [dict(group) for group in groups], fused=True)
        if is_mixed and "foreach" in accepted:
            section.setdefault("foreach", False)
        return OPTIMIZER_REGISTRY.build(section, where, groups)
    except (TypeError, RuntimeError) as error:
        raise UserError(f"{where}: {config.type}: {error}") from error


def _can_be_fused(group: dict[str, Any]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps") for p in group["params"])


def by_layout(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Return the tensors in groups that torch's operations on lists can take: spread in the same way, or whole."""
    groups: dict[Any, list[torch.Tensor]] = {}
    for tensor in tensors:
        layout = (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else None
        groups.setdefault(layout, []).append(tensor)
    return list(groups.values())


def as_groups(parameters: Iterable) -> list[dict[str, Any]]:
    """Return parameters or parameter groups as groups, whose iterators can be read more than once."""
    parameters = list(parameters)
    if parameters and not isinstance(parameters[0], dict):
        parameters = [{"params": parameters}]
    return [{**group, "params": list(group["params"])} for group in parameters]


def build_scheduler(
    config: OptimizerConfig, optimizer: Optimizer, total: int, where: str = "optim"
) -> LRScheduler | ReduceLROnPlateau | None:
    """Build the schedule that a config section names, behind its linear warm-up.

    Args:
        config: The section; ``lr_scheduler`` null and no warm-up give None.
        optimizer: The optimizer whose learning rates it sets.
        total: Length of the run in the schedule's unit (epochs or optimizer steps). A length that the config leaves out
            is what the warm-up leaves of it.
        where: The section's place in the config, for messages.

    Raises:
        UserError: An unknown name, or arguments that do not fit.
    """
    where = f"{where}.lr_scheduler"
    if config.lr_scheduler is None:
        return _warmup(config, optimizer) if config.warmup else None
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
        return SequentialLR(optimizer, [_warmup(config, optimizer), schedule], milestones=[config.warmup])
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {section['type']}: {error}") from error


def _warmup(config: OptimizerConfig, optimizer: Optimizer) -> LinearLR:
    return LinearLR(optimizer, start_factor=config.warmup_factor, total_iters=config.warmup)


def _linear_warmup(step: int, steps: int, factor: float) -> float:
    return factor + (1 - factor) * step / steps if step < steps else 1.0


@SCHEDULER_REGISTRY.register("WarmupMultiStepLR")
def warmup_multi_step(
    optimizer: Optimizer,
    milestones: list[int],
    gamma: float = 0.1,
    warmup_steps: int = 500,
    warmup_factor: float = 0.01,
) -> LambdaLR:
    """Return a step schedule under a linear warm-up; its milestones count from 0, not from the end of the warm-up.

    Source: He et al., Deep Residual Learning (2016), in the form that detection frameworks made common.
    """
    milestones = sorted(milestones)

    def factor(step: int) -> float:
        drops = sum(step >= milestone for milestone in milestones)
        return gamma**drops * _linear_warmup(step, warmup_steps, warmup_factor)

    return LambdaLR(optimizer, factor)


@SCHEDULER_REGISTRY.register("WarmUpCosineLR")
def warmup_cosine(
    optimizer: Optimizer,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_factor: float = 0.01,
    min_factor: float = 0.0,
) -> LambdaLR:
    """Return a linear warm-up followed by half a cosine down to ``min_factor`` times the learning rate.

    Source: Loshchilov and Hutter, SGDR (2017), without restarts.
    """
    length = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return _linear_warmup(step, warmup_steps, warmup_factor)
        done = min(1.0, (step - warmup_steps) / length)
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)


@SCHEDULER_REGISTRY.register("PolyLR")
def poly(optimizer: Optimizer, total_steps: int, power: float = 0.9, min_factor: float = 0.0) -> LambdaLR:
    """Return a polynomial decay, ``(1 - step / total_steps) ** power``, that never goes below ``min_factor``.

    Source: Chen et al., DeepLab (2018).
    """
    return LambdaLR(optimizer, lambda step: max(min_factor, max(0.0, 1 - step / total_steps) ** power))


def global_norm(gradients: list[torch.Tensor], are_spread: bool = False) -> torch.Tensor:
    """Return the norm of all gradients together, a scalar tensor on their device; nothing is synchronised.

    It is finite exactly if all of them are (and their squares do not overflow). Where some gradients are spread over
    processes, it is that of the whole ones. Collective there.
    """
    if not are_spread:
        return _norm(gradients)
    norms = [_norm(alike) for alike in by_layout(gradients)]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))


def _norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clip_gradients_by_norm(gradients: list[torch.Tensor], limit: float, norm: torch.Tensor) -> None:
    """Scale the gradients in place so that their ``global_norm``, given as ``norm``, is at most ``limit``.

    What ``torch.nn.utils.clip_grad_norm_`` does, on a list kept by the caller and without a look at each parameter.
    """
    if norm.device.type != "cpu" or norm.dtype not in (torch.float32, torch.float64):
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp_(max=1.0))
        return
    # The same arithmetic, to the last bit, on numbers: each operation of torch costs as much as all of it.
    value = norm.numpy()[()]
    number = type(value)
    factor = number(limit) * (number(1) / (value + number(1e-6)))
    if not factor >= 1:
        torch._foreach_mul_(gradients, float(factor))


def clip_gradients_by_value(gradients: list[torch.Tensor], limit: float) -> None:
    """Limit each value of the gradients to [-limit, limit], in place."""
    torch._foreach_clamp_min_(gradients, -limit)
    torch._foreach_clamp_max_(gradients, limit)
