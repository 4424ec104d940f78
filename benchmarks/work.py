"""What every engine works on in the benchmarks: the same models, data, optimizer, clipping, schedule and logging."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.proj_name}}"
sys.path.insert(0, str(PROJECT))

LR, CLIP, LOG_EVERY = 1e-3, 1.0, 50  # Adam, the norm of the gradients, a cosine to 0 over the run, steps


def mlp(*widths: int) -> nn.Module:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for one, other in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def resnet18() -> nn.Module:
    """Return a ResNet-18 for ten classes."""
    from common.vision.resnet import ResNet

    return ResNet(18, num_classes=10)


class InMemory(Dataset):
    """Rows of tensors, as dicts."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors["y"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: values[index] for name, values in self.tensors.items()}


class Augmented(InMemory):
    """Images, 32 x 32, each cropped and flipped at random and made lighter or darker."""

    random_generators = ("torch",)  # what this template's loader seeds for each sample

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(index)
        image = nn.functional.pad(sample["x"], (4, 4, 4, 4))
        top, left = torch.randint(9, (2,)).tolist()
        image = image[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return sample | {"x": image * torch.empty(()).uniform_(0.8, 1.2)}


@dataclass
class Work:
    """One workload, which is its own stream of batches; ``times`` gets the clock's reading before each block."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Of a sample."""
    batch: int
    """Samples a batch."""
    blocks: int
    """How many blocks."""
    block: int = LOG_EVERY
    """Steps a block, between two readings of the clock."""
    feature: str = ""
    """What is on besides: accumulate (4 batches a step), ema (0.999), bf16 or compile."""
    source: Callable[[dict[str, torch.Tensor]], Dataset] | None = None
    """What a loader reads; None for batches from a list."""
    worker: int = 0
    """Processes that load data."""
    processes: int = int(os.environ.get("WORLD_SIZE", 1))
    """Processes that train together."""
    times: list[float] = field(default_factory=list)
    first_step_at: float = 0.0
    """``time.time()`` when the first step was over."""

    @property
    def steps(self) -> int:
        """All steps."""
        return self.blocks * self.block

    def model(self) -> nn.Module:
        """Return the model, always with the same weights."""
        torch.manual_seed(0)
        return self.build()

    def samples(self, batches: int) -> dict[str, torch.Tensor]:
        """Return the data, always the same on a rank: ``x`` and ``y`` of so many batches."""
        generator = torch.Generator().manual_seed(1 + int(os.environ.get("RANK", 0)))
        count = batches * self.batch
        return {
            "x": torch.randn(count, *self.shape, generator=generator),
            "y": torch.randint(10, (count,), generator=generator),
        }

    def dataset(self) -> Dataset:
        """Return what a loader reads."""
        return self.source(self.samples(200))

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield a batch for each step."""
        return self.timed(self.batches())

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield batches without end: from a list in memory, or from torch's loader with its default collation."""
        if self.source:
            workers = {"num_workers": self.worker, "persistent_workers": self.worker > 0}
            loader = DataLoader(self.dataset(), self.batch, shuffle=True, **workers)
            return (batch for _ in itertools.count() for batch in loader)
        samples = {name: values.split(self.batch) for name, values in self.samples(20).items()}
        return itertools.cycle([{"x": x, "y": y} for x, y in zip(samples["x"], samples["y"], strict=True)])

    def timed(self, batches: Iterable[dict]) -> Iterator[dict]:
        """Yield a batch for each step, and note the time before each block; whether its end is waited for differs."""
        for step, batch in enumerate(itertools.islice(batches, self.steps)):
            if step == 1:
                self.first_step_at = time.time()
            if step % self.block == 0:
                self.times.append(time.perf_counter())
            yield batch


def small(blocks: int = 12, **keys) -> Work:
    """Return the workload with the model of ``small``."""
    return Work(partial(mlp, 784, 512, 512, 10), (784,), 64, blocks, **keys)


def tiny(**keys) -> Work:
    """Return the workload with the model of ``tiny``."""
    return Work(partial(mlp, 64, 64, 10), (64,), 32, 40, **keys)


def augment() -> Work:
    """Return a workload that waits for its data."""
    return Work(
        lambda: nn.Sequential(nn.Flatten(), mlp(3 * 32 * 32, 64, 10)),
        (3, 32, 32),
        64,
        12,
        source=Augmented,
        worker=2,
    )


WORK: dict[str, Callable[[], Work]] = {
    "tiny": tiny,
    "small": small,
    "conv": lambda: Work(resnet18, (3, 32, 32), 64, 8, block=10),
    "loader": partial(tiny, source=InMemory),
    "augment": augment,
    "ddp": small,
    "validation": partial(small, blocks=40),
}
WORK |= {name: partial(small, feature=name) for name in ("accumulate", "ema", "bf16", "compile")}
