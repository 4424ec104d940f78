"""The UCI handwritten digits, shipped in data/digits."""

from __future__ import annotations

import numpy as np
import torch

from common import DATASET_REGISTRY, ArrayDataset, BaseDataset
from common.data import check_labels

# How the 1,797 images are divided: in one fixed shuffled order, so that no image is in two splits.
SPLITS = {"train": (0, 1257), "val": (1257, 1527), "eval": (1527, 1797)}


@DATASET_REGISTRY.register()
class DigitsDataset(ArrayDataset):
    """Images of the ten digits, 8 by 8 pixels.

    A sample is ``{"image": float32 (1, 8, 8) in [0, 1], "label": int64 ()}``.

    Args:
        data_dir: Root of all data sets; the images lie in ``digits/digits.npz``.
        split: ``train`` (1,257 images), ``val`` (270) or ``eval`` (270).

    Raises:
        UserError: Another split, the file is missing, or a label is out of range.
    """

    classes = tuple("0123456789")

    def __init__(self, data_dir: str, split: str = "train"):
        self.check_split(split, SPLITS)
        BaseDataset.__init__(self, data_dir)
        with np.load(self.find("digits/digits.npz")) as arrays:
            rows = np.random.default_rng(0).permutation(len(arrays["label"]))[slice(*SPLITS[split])]
            images, labels = arrays["image"][rows], arrays["label"][rows]
        check_labels(torch.from_numpy(labels), 10, "digits/digits.npz")
        super().__init__(
            data_dir,
            image=torch.from_numpy(images).float().div(16).unsqueeze(1),
            label=torch.from_numpy(labels).long(),
        )
