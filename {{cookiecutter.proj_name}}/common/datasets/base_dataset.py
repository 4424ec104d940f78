"""Base classes of data sets."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import Dataset

from common.errors import UserError


class BaseDataset(Dataset):
    """A map-style data set whose samples are dicts of tensors, numbers and strings.

    Subclasses implement ``__len__`` and ``__getitem__(index) -> dict``. One that can fetch many samples at once also
    gives ``__getitems__(indices) -> dict`` of whole batches, which saves the collation.

    Args:
        data_dir: The one root of all data sets, ``dir.data_dir``.
    """

    def __init__(self, data_dir: str | Path):
        self.data_dir = Path(data_dir)

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
        rows = torch.tensor(indices)
        return {name: tensor.index_select(0, rows) for name, tensor in self.tensors.items()}
