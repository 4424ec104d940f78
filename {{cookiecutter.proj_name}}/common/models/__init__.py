"""Reusable parts of models."""

from common.models.mlp import MLP

__all__ = ["MLP"]
