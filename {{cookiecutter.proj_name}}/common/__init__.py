"""The engine. What your files need comes from here, loaded when it is asked for: ``from common import Trainer``."""

# ruff: noqa: F401

from contextlib import suppress
from typing import TYPE_CHECKING, Any

__version__ = "1.0"  # the engine's, which checkpoints name

if TYPE_CHECKING:  # the names below, for type checkers and editors
    from common.config import Config, UserError, command, find_room, load_config, open_room
    from common.config.build import build_loader, build_loss, build_metric, build_model, build_tester, build_trainer
    from common.config.registry import (
        COLLATE_REGISTRY,
        DATASET_REGISTRY,
        LOSS_REGISTRY,
        METRIC_REGISTRY,
        MODEL_REGISTRY,
        TESTER_REGISTRY,
        TRAINER_REGISTRY,
        TRANSFORM_REGISTRY,
    )
    from common.data import ArrayDataset, BaseDataset, make_loader
    from common.diagnose import activations
    from common.engine import BatchTester, EpochBasedTrainer, IterBasedTrainer, SingleTester, Trainer
    from common.log.console import add_log
    from common.log.metric import BaseMetric, MeanMetric, MetricSet
    from common.optim import OPTIMIZER_REGISTRY, SCHEDULER_REGISTRY, build_optimizer, build_scheduler
    from common.optim.loss import LossSet
    from common.run.distributed import get_rank, master_only
    from common.run.launch import Session, launch

_NAMES = {
    "config": "Config UserError command find_room load_config open_room",
    "config.build": "build_loader build_loss build_metric build_model build_tester build_trainer",
    "config.registry": "COLLATE_REGISTRY "
    "DATASET_REGISTRY LOSS_REGISTRY METRIC_REGISTRY MODEL_REGISTRY TESTER_REGISTRY TRAINER_REGISTRY "
    "TRANSFORM_REGISTRY",
    "data": "ArrayDataset BaseDataset make_loader",
    "diagnose": "activations",
    "engine": "BatchTester EpochBasedTrainer IterBasedTrainer SingleTester Trainer",
    "log.console": "add_log",
    "log.metric": "BaseMetric MeanMetric MetricSet",
    "optim": "OPTIMIZER_REGISTRY SCHEDULER_REGISTRY build_optimizer build_scheduler",
    "optim.loss": "LossSet",
    "run.distributed": "get_rank master_only",
    "run.launch": "Session launch",
}
_HOMES = {name: f"common.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'common' has no attribute '{name}'")
    return getattr(__import__(_HOMES[name], fromlist=[name]), name)  # finds a submodule, too


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


with suppress(ModuleNotFoundError):  # where the room tools is, old import paths still lead to the new modules
    from common.tools.moved import follow_moved_modules

    follow_moved_modules()
