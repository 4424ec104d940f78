"""Base classes of data sets, and the loader that can begin anywhere."""

from common.datasets.base_dataset import ArrayDataset, BaseDataset
from common.datasets.loader import PositionedBatchSampler, make_loader
from common.datasets.view import View, draw_rows

__all__ = ["ArrayDataset", "BaseDataset", "PositionedBatchSampler", "View", "draw_rows", "make_loader"]
