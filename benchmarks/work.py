"""What every engine trains in the benchmarks: the same models, data, optimizer, clipping, schedule and logging."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

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
    from common.models import ResNet

    return ResNet(18, num_classes=10)


@dataclass
class Work:
    """One workload, which is its own stream of batches; ``times`` gets the clock's reading before each block."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Of a sample."""
    batch: int
    """Samples a batch."""
    blocks: int
    """How many blocks of ``LOG_EVERY`` steps."""
    feature: str = ""
    """What is on besides: accumulate (4 batches a step), ema (0.999), bf16 or compile."""
    times: list[float] = field(default_factory=list)
    first_step_at: float = 0.0
    """``time.time()`` when the first step was over."""

    @property
    def steps(self) -> int:
        """All steps."""
        return self.blocks * LOG_EVERY

    def model(self) -> nn.Module:
        """Return the model, always with the same weights."""
        torch.manual_seed(0)
        return self.build()

    def samples(self, batches: int = 20) -> dict[str, torch.Tensor]:
        """Return the data, always the same: ``x`` and ``y`` of so many batches."""
        generator = torch.Generator().manual_seed(1)
        count = batches * self.batch
        return {
            "x": torch.randn(count, *self.shape, generator=generator),
            "y": torch.randint(10, (count,), generator=generator),
        }

    def __len__(self) -> int:
        """Return the number of steps."""
        return self.steps

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield a batch for each step, from a list in memory."""
        samples = {name: values.split(self.batch) for name, values in self.samples().items()}
        batches = [{"x": x, "y": y} for x, y in zip(samples["x"], samples["y"], strict=True)]
        return self.timed(itertools.cycle(batches))

    def timed(self, batches: Iterable[dict]) -> Iterator[dict]:
        """Yield a batch for each step, and note the time before each block and at the end."""
        for step, batch in enumerate(itertools.islice(batches, self.steps)):
            if step == 1:
                self.first_step_at = time.time()
            if step % LOG_EVERY == 0:
                self.times.append(time.perf_counter())
            yield batch
        self.times.append(time.perf_counter())


WORK = {
    "tiny": lambda: Work("tiny", lambda: mlp(64, 64, 10), (64,), 32, 40),
    "small": lambda: Work("small", lambda: mlp(784, 512, 512, 10), (784,), 64, 12),
    "conv": lambda: Work("conv", resnet18, (3, 32, 32), 64, 3),
    "loader": lambda: Work("loader", lambda: mlp(64, 64, 10), (64,), 32, 40),
}
for _feature in ("accumulate", "ema", "bf16", "compile"):
    WORK[_feature] = partial(Work, _feature, lambda: mlp(784, 512, 512, 10), (784,), 64, 12, _feature)
