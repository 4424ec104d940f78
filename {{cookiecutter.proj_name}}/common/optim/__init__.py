"""Losses, optimizers and schedules, the optimizer step, and the average of the weights."""

from common.optim.build import OPTIMIZER_REGISTRY, SCHEDULER_REGISTRY, build_optimizer, build_scheduler

__all__ = ["OPTIMIZER_REGISTRY", "SCHEDULER_REGISTRY", "build_optimizer", "build_scheduler"]
