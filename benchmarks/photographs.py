"""Photographs a second beside the same recipe by hand: python benchmarks/photographs.py

Both read the same JPEGs, with as many workers and in batches of the same size, cut a random part of 35 to 100 % of the
area and resize it to 224 x 224, uint8. By hand that is torch's DataLoader and a data set of Pillow's calls, as one
writes it: open, convert, crop, resize. Printed are the medians of rounds that take turns, as ratios.
"""

import math
import random
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.proj_name}}"
sys.path.insert(0, str(PROJECT))

from common.data import make_loader  # noqa: E402
from common.images.folder import ImageFolder  # noqa: E402

SIDE, AREA = 224, (0.35, 1.0)
SIZES = {"12 megapixels": (4000, 3000, 24), "500 pixels": (500, 375, 256)}  # width, height, how many


class ByHand(Dataset):
    """The recipe by hand."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*/*.jpg"))
        self.classes = sorted({file.parent.name for file in self.files})

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file = self.files[index]
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        image = image.crop(self.box(*image.size)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return pixels, self.classes.index(file.parent.name)

    @staticmethod
    def box(width: int, height: int) -> tuple[int, int, int, int]:
        """Return a random part, as in torchvision's RandomResizedCrop."""
        for _ in range(10):
            area = width * height * random.uniform(*AREA)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w <= width and h <= height:
                left, top = random.randint(0, width - w), random.randint(0, height - h)
                return left, top, left + w, top + h
        side = min(width, height)
        return (width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2


def write_photographs(folder: Path, width: int, height: int, count: int) -> None:
    """Write JPEGs with some detail in two classes."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 25, width // 25, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = (pixels + rng.integers(-8, 9, (height, width, 1))).clip(0, 255).astype(np.uint8)
        path = folder / "ab"[number % 2] / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


def rate(loader: DataLoader) -> float:
    """Return the photographs a second of one pass."""
    began, count = time.perf_counter(), 0
    for batch in loader:
        count += len(batch["image"] if isinstance(batch, dict) else batch[0])
    return count / (time.perf_counter() - began)


def main() -> None:
    """Print photographs a second of each way, and how many times as many ours reads."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name, (width, height, count) in SIZES.items():
            folder = Path(temporary, name)
            write_photographs(folder, width, height, count)
            ours = ImageFolder(str(folder), "all", size=SIDE, crop=AREA)
            keys = {"num_workers": words.worker, "persistent_workers": words.worker > 0}
            loaders = {
                "by hand": DataLoader(ByHand(folder), words.batch_size, shuffle=True, **keys),
                "ours": make_loader(ours, words.batch_size, words.worker, training=True),
            }
            rates: dict[str, list[float]] = {way: [] for way in loaders}
            for round_number in range(words.rounds + 1):  # the first one starts the workers
                for way in sorted(loaders, reverse=round_number % 2 == 1):
                    rates[way].append(rate(loaders[way]))
            medians = {way: statistics.median(values[1:]) for way, values in rates.items()}
            shown = ", ".join(f"{way} {value:.0f}" for way, value in medians.items())
            ratios = [mine / theirs for mine, theirs in zip(rates["ours"][1:], rates["by hand"][1:], strict=True)]
            print(f"{name}: {shown} a second with {words.worker} workers, {statistics.median(ratios):.2f} times")


if __name__ == "__main__":
    main()
