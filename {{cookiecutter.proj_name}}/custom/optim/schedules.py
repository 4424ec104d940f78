"""Learning rate schedules beside those of torch, as factors of the learning rate by step."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common import SCHEDULER_REGISTRY


def _warmup(steps: int, factor: float) -> Callable[[int], float]:
    return lambda step: factor + (1 - factor) * step / steps if step < steps else 1.0


@SCHEDULER_REGISTRY.register("WarmupMultiStepLR")
def warmup_multi_step(
    optimizer: Optimizer, milestones: list, gamma: float = 0.1, warmup_steps: int = 500, warmup_factor: float = 0.01
) -> LambdaLR:
    """Return a step schedule under a linear warm-up; its milestones count from 0, not from the end of the warm-up.

    Source: He et al., Deep Residual Learning (2016), in the form that detection frameworks made common.
    """
    warmup = _warmup(warmup_steps, warmup_factor)
    return LambdaLR(optimizer, lambda step: gamma ** sum(step >= at for at in milestones) * warmup(step))


@SCHEDULER_REGISTRY.register("WarmUpCosineLR")
def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, warmup_factor: float = 0.01, min_factor: float = 0.0
) -> LambdaLR:
    """Return a linear warm-up followed by half a cosine down to ``min_factor`` times the learning rate.

    Source: Loshchilov and Hutter, SGDR (2017), without restarts.
    """
    warmup, length = _warmup(warmup_steps, warmup_factor), max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return warmup(step)
        done = min(1.0, (step - warmup_steps) / length)
        return min_factor + (1 - min_factor) * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)


@SCHEDULER_REGISTRY.register("PolyLR")
def poly(optimizer: Optimizer, total_steps: int, power: float = 0.9, min_factor: float = 0.0) -> LambdaLR:
    """Return a polynomial decay, ``(1 - step / total_steps) ** power``, that never goes below ``min_factor``.

    Source: Chen et al., DeepLab (2018).
    """
    return LambdaLR(optimizer, lambda step: max(min_factor, max(0.0, 1 - step / total_steps) ** power))
