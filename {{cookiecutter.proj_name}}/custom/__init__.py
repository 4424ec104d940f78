"""Your part of the project: importing it registers all that stands in these folders."""

from common import build_tester, build_trainer
from custom import datasets, losses, metrics, models, optim, testers, trainers, transforms

__all__ = [
    "build_tester",
    "build_trainer",
    "datasets",
    "losses",
    "metrics",
    "models",
    "optim",
    "testers",
    "trainers",
    "transforms",
]
