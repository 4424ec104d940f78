"""Augmentation of whole batches beside that of single samples: python benchmarks/augmentation.py

Both take the same images and masks, 256 x 256, through the loader and to the device, with the same transforms: flips,
and a color jitter of six changes. Printed are the medians of rounds that take turns, as ratios.
"""

import statistics
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.proj_name}}"
sys.path.insert(0, str(PROJECT))

from common.data import BaseDataset, make_loader  # noqa: E402
from common.data.dataset import View  # noqa: E402
from common.data.loader import on_device  # noqa: E402
from common.run.strategy import keep_freed_memory  # noqa: E402
from common.vision.pipeline import Pipeline  # noqa: E402

SECTIONS = [
    {"type": "ToTensor"},
    {"type": "RandomFlip", "direction": ["horizontal", "vertical", "diagonal"], "p": 0.5},
    {
        "type": "RandomColorJitter",
        "brightness_limit": [0.6, 1.2],
        "brightness_p": 0.6,
        "contrast_limit": [0.6, 1.4],
        "contrast_p": 0.6,
        "saturation_limit": [0.6, 1.4],
        "saturation_p": 0.5,
        "hue_limit": [-0.1, 0.1],
        "hue_p": 0.05,
        "blur_limit": [3, 7],
        "blur_p": 0.2,
        "gamma_limit": [0.3, 3.0],
        "gamma_p": 0.1,
    },
]


class Photographs(BaseDataset):
    """Noise in memory, as decoded photographs are: uint8 with a mask."""

    def __init__(self, samples: int, size: int = 256):
        super().__init__("data")
        self.images = torch.randint(256, (samples, 3, size, size), dtype=torch.uint8)
        self.masks = torch.rand(samples, 1, size, size).round()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], "mask": self.masks[index]}


def rate(loader, device: torch.device) -> float:
    """Return the samples a second of one pass, from the loader to transformed batches on the device."""
    began, count = time.perf_counter(), 0
    for batch in on_device(loader, device):
        count += len(loader.transform_batch(batch)["image"] if loader.transform_batch else batch["image"])
    if device.type == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - began)


def main() -> None:
    """Print samples a second of each way, and how many times as many whole batches give."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    photographs = Photographs(8 * args.batch_size)
    loading = {"batch_size": args.batch_size, "worker": args.worker, "training": True}
    loading["pin_memory"] = device.type == "cuda"
    pipeline = Pipeline(SECTIONS)
    loaders = {
        "samples": make_loader(View(photographs, None, pipeline), **loading),
        "batches": make_loader(photographs, transform_batch=pipeline.on_batch, **loading),
    }
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(args.rounds + 1):
        for name, loader in loaders.items():
            rates[name].append(rate(loader, device))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name}: {value:.0f} samples a second on {device}, {args.worker} workers")
    print(f"batches / samples: {medians['batches'] / medians['samples']:.2f}")


if __name__ == "__main__":
    main()
