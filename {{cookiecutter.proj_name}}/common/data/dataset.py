"""Base classes of data sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from common.config.errors import UserError


class BaseDataset(Dataset):
    """A map-style data set whose samples are dicts of tensors, numbers and strings.

    Subclasses implement ``__len__`` and ``__getitem__(index) -> dict``. One that can fetch many samples at once also
    gives ``__getitems__(indices) -> dict`` of whole batches, which saves the collation.

    Args:
        data_dir: The one root of all data sets, ``dir.data_dir``.
    """

    def __init__(self, data_dir: str | Path):
        self.data_dir = Path(data_dir)

    @classmethod
    def check_split(cls, split: str, known: Iterable[str]) -> None:
        """Refuse a split that is not one of the known ones.

        Raises:
            UserError: It is another.
        """
        if split not in known:
            raise UserError(f"{cls.__name__}: split must be one of {', '.join(known)}, found {split!r}")

    def find(self, relative: str) -> Path:
        """Return a file or folder below ``data_dir``.

        Raises:
            UserError: It is not there.
        """
        path = self.data_dir / relative
        if not path.exists():
            raise UserError(
                f"{type(self).__name__}: {path} not found; --dir.data_dir names the folder of all data sets"
            )
        return path


def read_image(path: Path, mode: str = "RGB") -> torch.Tensor:
    """Return a picture file as uint8 (C, H, W).

    Args:
        path: Any format that Pillow reads; of several frames the first.
        mode: ``RGB``, or ``L`` for one channel of grey.

    Raises:
        OSError: No such file, or no picture.
    """
    with Image.open(path) as image:
        pixels = np.array(image.convert(mode))
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous()


def check_labels(labels: torch.Tensor, num_classes: int, where: str) -> None:
    """Refuse class numbers that are out of range.

    Args:
        labels: Integers (samples,).
        num_classes: Number of classes.
        where: The file they are from.

    Raises:
        UserError: One is below 0, or not below ``num_classes``.
    """
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise UserError(f"{where}: sample {index} has label {labels[index]}, expected 0 to {num_classes - 1}")


def split_groups(groups: Sequence[str], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Divide samples at random into sets that do not overlap; samples of one group stay together.

    Args:
        groups: The group of each sample, such as its own name, or the patient or the car it shows.
        shares: The sets' shares of the groups, such as (0.8, 0.1, 0.1); what is left of 1 is in no set.
        seed: Seed of the order.

    Returns:
        For each set the numbers of its samples, in order.

    Raises:
        ValueError: Shares that are negative, or above 1 together.
    """
    if min(shares) < 0 or sum(shares) > 1 + 1e-9:
        raise ValueError(f"shares must not be negative, nor above 1 together, found {list(shares)}")
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.round(np.cumsum([0.0, *shares]) * len(names)).astype(int)
    place = {names[number]: i for i, number in enumerate(order)}
    places = [place[group] for group in groups]
    return [[i for i, p in enumerate(places) if a <= p < b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


class ArrayDataset(BaseDataset):
    """A data set that fits in memory: named tensors with one row a sample.

    A batch is one ``index_select`` a tensor, without a look at single samples.

    Args:
        data_dir: The root of all data sets.
        **tensors: Tensors with the same first dimension, the number of samples.

    Raises:
        ValueError: The first dimensions differ.
    """

    def __init__(self, data_dir: str | Path, **tensors: torch.Tensor):
        super().__init__(data_dir)
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"expected tensors with the same number of samples, found {lengths}")
        self.tensors = tensors

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one sample by name."""
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Return a batch by name."""
        rows = torch.from_numpy(np.array(indices))  # four times as fast as torch.tensor of a list
        return {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}
