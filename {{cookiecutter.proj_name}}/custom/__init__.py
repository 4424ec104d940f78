"""Your part of the project."""

from custom import datasets, losses, metrics, models, optim

__all__ = ["datasets", "losses", "metrics", "models", "optim"]
