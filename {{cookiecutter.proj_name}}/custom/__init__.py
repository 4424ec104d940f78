"""Your part of the project."""

from custom import datasets, losses, metrics, models

__all__ = ["datasets", "losses", "metrics", "models"]
