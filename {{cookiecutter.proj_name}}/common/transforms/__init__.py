"""Transforms of images, and of what lies on them."""

from common.transforms.pipeline import Pipeline

__all__ = ["Pipeline"]
