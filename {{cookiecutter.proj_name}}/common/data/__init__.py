"""Data sets, and a loader that can start at any batch."""

from common.data.dataset import ArrayDataset, BaseDataset, PositionedBatchSampler, check_labels, split_groups
from common.data.loader import make_loader

__all__ = ["ArrayDataset", "BaseDataset", "PositionedBatchSampler", "check_labels", "make_loader", "split_groups"]
