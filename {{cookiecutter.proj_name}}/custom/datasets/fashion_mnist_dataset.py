"""FashionMNIST: pictures of clothes, downloaded where they are missing."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from common import DATASET_REGISTRY, ArrayDataset, UserError, open_room
from common.data import check_labels, split_groups

MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
# The four files, with their md5 digests.
FILES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
CLASSES = tuple("T-shirt trouser pullover dress coat sandal shirt sneaker bag boot".split())


@DATASET_REGISTRY.register()
class FashionMNISTDataset(ArrayDataset):
    """Pictures of ten kinds of clothes, 28 by 28 pixels, in ``<data_dir>/fashion_mnist``.

    A sample is ``{"image": uint8 (1, 28, 28), "label": int64 ()}``. Source: Xiao et al., Fashion-MNIST (2017).

    Args:
        data_dir: Root of all data sets.
        split: ``train`` (55,000 of the published training set), ``val`` (its other 5,000) or ``eval`` (the published
            test set, 10,000).
        seed: Seed of the division into ``train`` and ``val``.
        mirrors: Addresses of folders that have the files, tried one after another. None: the published ones.

    Raises:
        UserError: Another split, a file that cannot be downloaded or read, or a label that is out of range.
    """

    classes = CLASSES

    def __init__(self, data_dir: str, split: str = "train", seed: int = 0, mirrors: list[str] | None = None):
        self.check_split(split, ("train", "val", "eval"))
        part = "t10k" if split == "eval" else "train"
        paths = [self._get(data_dir, name, mirrors or MIRRORS) for name in FILES if name.startswith(part)]
        images, labels = map(read_idx, paths)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
            raise UserError(f"{paths[0]}, {paths[1].name}: expected pictures and as many labels, found {shapes}")
        check_labels(labels, len(CLASSES), str(paths[1]))
        if split != "eval":
            rows = split_groups([f"{i:06d}" for i in range(len(labels))], (11 / 12, 1 / 12), seed)
            images, labels = (values[rows[split == "val"]] for values in (images, labels))
        super().__init__(data_dir, image=images.unsqueeze(1), label=labels.long())

    @staticmethod
    def _get(data_dir: str, name: str, mirrors: list[str] | tuple[str, ...]) -> Path:
        urls = [f"{mirror.rstrip('/')}/{name}" for mirror in mirrors]
        room = open_room("tools.download", "FashionMNISTDataset")
        return room.download(Path(data_dir) / "fashion_mnist" / name, urls, FILES[name])


def read_idx(path: Path) -> torch.Tensor:
    """Return a compressed IDX file of unsigned bytes as uint8, in the shape it tells.

    Source: LeCun, The MNIST database: the file begins with 0, 0, 8 (unsigned byte), the number of dimensions, and each
    dimension as four bytes, the highest first.

    Raises:
        UserError: It is damaged, or no such file.
    """
    try:
        with gzip.open(path) as file:
            data = file.read()
        if data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
            raise ValueError("the header is not that of an IDX file of bytes")
        shape = np.frombuffer(data, ">u4", data[3], offset=4).tolist()
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
        return torch.from_numpy(values.reshape(shape).copy())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
