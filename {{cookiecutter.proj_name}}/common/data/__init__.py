"""Data sets, and a loader that can start at any batch."""

from common.data.dataset import ArrayDataset, BaseDataset, check_labels, split_groups
from common.data.download import download
from common.data.loader import PositionedBatchSampler, make_loader
from common.data.subset import View, draw_rows

__all__ = [
    "ArrayDataset",
    "BaseDataset",
    "PositionedBatchSampler",
    "View",
    "check_labels",
    "download",
    "draw_rows",
    "make_loader",
    "split_groups",
]
