"""FashionMNIST, on small files in its format."""

import gzip
import hashlib
import struct
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from common import UserError
from tests import needs_room
from custom.datasets import fashion_mnist_dataset
from custom.datasets.fashion_mnist_dataset import FashionMNISTDataset, read_idx


def write_idx(path, values):
    """Write unsigned bytes as IDX, compressed."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@needs_room("tools")
class TestFashionMNIST(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name) / "fashion_mnist"
        self.folder.mkdir()
        random = np.random.default_rng(0)
        self.arrays = {}
        for part, count in (("train", 120), ("t10k", 30)):
            self.arrays[part] = random.integers(0, 256, (count, 28, 28)), random.integers(0, 10, count)
            for kind, values in zip(("images-idx3", "labels-idx1"), self.arrays[part], strict=True):
                write_idx(self.folder / f"{part}-{kind}-ubyte.gz", values)
        self.seal()

    def seal(self):
        """Let the files that are there be the published ones."""
        digests = {
            name: hashlib.md5((self.folder / name).read_bytes()).hexdigest() for name in fashion_mnist_dataset.FILES
        }
        patch = mock.patch.dict(fashion_mnist_dataset.FILES, digests)
        patch.start()
        self.addCleanup(patch.stop)

    def load(self, split, **keys):
        return FashionMNISTDataset(str(self.folder.parent), split, mirrors=["http://127.0.0.1:9/"], **keys)

    def test_splits(self):
        sets = {split: self.load(split) for split in ("train", "val", "eval")}
        self.assertEqual([len(dataset) for dataset in sets.values()], [110, 10, 30])
        images, labels = self.arrays["t10k"]
        sample = sets["eval"][4]
        self.assertEqual((sample["image"].dtype, sample["label"].dtype), (torch.uint8, torch.int64))
        self.assertEqual((sample["image"][0].tolist(), int(sample["label"])), (images[4].tolist(), labels[4]))
        seen = {
            tuple(sets[split][i]["image"].flatten().tolist())
            for split in ("train", "val")
            for i in range(len(sets[split]))
        }
        self.assertEqual(seen, {tuple(image.flatten().tolist()) for image in self.arrays["train"][0]})

    def test_the_seed_divides(self):
        self.assertTrue(self.load("val").tensors["image"].equal(self.load("val").tensors["image"]))
        self.assertFalse(self.load("val").tensors["image"].equal(self.load("val", seed=1).tensors["image"]))

    def test_a_label_out_of_range(self):
        write_idx(self.folder / "t10k-labels-idx1-ubyte.gz", np.full(30, 11))
        self.seal()
        with self.assertRaisesRegex(UserError, "t10k-labels-idx1-ubyte.gz: sample 0 has label 11, expected 0 to 9"):
            self.load("eval")

    def test_not_as_many_labels(self):
        write_idx(self.folder / "t10k-labels-idx1-ubyte.gz", np.zeros(29))
        self.seal()
        with self.assertRaisesRegex(UserError, r"pictures and as many labels, found \(30, 28, 28\) and \(29,\)"):
            self.load("eval")

    def test_damaged(self):
        path = self.folder / "t10k-images-idx3-ubyte.gz"
        whole = path.read_bytes()
        for data in (whole[: len(whole) // 2], b"junk", gzip.compress(b"\0\0\x0d\x01"), gzip.compress(b"\0\0\x08\x03"),
                     gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc")):  # fmt: skip
            path.write_bytes(data)
            with self.assertRaisesRegex(UserError, "t10k-images-idx3-ubyte.gz: cannot be read: "):
                read_idx(path)

    def test_not_the_published_file(self):
        (self.folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"another")
        with self.assertRaisesRegex(UserError, "expected the md5 digest .*; remove it to download it again"):
            self.load("eval")

    def test_missing_and_no_net(self):
        (self.folder / "train-images-idx3-ubyte.gz").unlink()
        with (
            mock.patch("time.sleep"),
            self.assertRaisesRegex(UserError, "train-images-idx3-ubyte.gz: cannot be downloaded"),
        ):
            self.load("train")

    def test_another_split(self):
        with self.assertRaisesRegex(UserError, "split must be one of train, val, eval, found 'test'"):
            self.load("test")
