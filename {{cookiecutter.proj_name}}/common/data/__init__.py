"""Base classes of data sets, and the loader that can begin anywhere."""

from common.data.dataset import ArrayDataset, BaseDataset, check_labels, read_image, split_groups
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
    "read_image",
    "split_groups",
]
