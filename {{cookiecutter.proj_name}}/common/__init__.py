"""The engine: one folder you own and can read in an afternoon. It never imports your package.

What your files need comes from here, and is imported when it is asked for: ``from common import Trainer, add_log``.
"""

# ruff: noqa: F401

from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.moved import follow_moved_modules

if TYPE_CHECKING:  # the names below, for type checkers and editors
    from common.config.build import build_loader, build_loss, build_metric, build_model
    from common.config.errors import UserError
    from common.config.load import load_config
    from common.config.registry import (
        DATASET_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
        MODEL_REGISTRY,
        TRANSFORM_REGISTRY,
    )
    from common.config.rooms import find_room, open_room
    from common.config.schema import Config
    from common.data import ArrayDataset, BaseDataset, make_loader
    from common.engine import BatchTester, EpochBasedTrainer, IterBasedTrainer, SingleTester, Trainer
    from common.log import activations
    from common.log.console import add_log
    from common.log.metric import BaseMetric, MeanMetric, MetricSet
    from common.optim import OPTIMIZER_REGISTRY, SCHEDULER_REGISTRY, build_optimizer, build_scheduler
    from common.optim.loss import LossSet
    from common.run.distributed import get_rank, master_only
    from common.run.launch import Session, launch
    from common.state.model import BaseModel

_NAMES = {
    "config.build": "build_loader build_loss build_metric build_model",
    "config.errors": "UserError",
    "config.load": "load_config",
    "config.registry": "DATASET_REGISTRY LOSS_REGISTRY METRIC_REGISTRY MODEL_REGISTRY TRANSFORM_REGISTRY",
    "config.rooms": "find_room open_room",
    "config.schema": "Config",
    "data": "ArrayDataset BaseDataset make_loader",
    "engine": "BatchTester EpochBasedTrainer IterBasedTrainer SingleTester Trainer",
    "log": "activations",
    "log.console": "add_log",
    "log.metric": "BaseMetric MeanMetric MetricSet",
    "optim": "OPTIMIZER_REGISTRY SCHEDULER_REGISTRY build_optimizer build_scheduler",
    "optim.loss": "LossSet",
    "run.distributed": "get_rank master_only",
    "run.launch": "Session launch",
    "state.model": "BaseModel",
}
_HOMES = {name: f"common.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'common' has no attribute '{name}'")
    if name == "activations":  # a module, not a name in one
        return import_module("common.log.activations")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


follow_moved_modules()
