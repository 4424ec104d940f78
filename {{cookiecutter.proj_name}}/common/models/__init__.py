"""Reusable models, and parts of models."""

from common.models.base_model import BaseModel, parameter_table
from common.models.mlp import MLP
from common.models.resnet import ResNet

__all__ = ["MLP", "BaseModel", "ResNet", "parameter_table"]
