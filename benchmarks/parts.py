"""What ten loss terms, metrics and parameter groups cost the engine: python benchmarks/parts.py

A step and a batch of validation of `small` (784-512-512-10, batch 64) beside the same by hand, in one process, by
turns; told are medians.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from engines.hand import evaluate
from engines.ours import Accuracy
from loguru import logger
from torch import nn, optim
from work import CLIP, LR, mlp

from common.config.schema import Config, OptimConfig, ProgressConfig, TrainerConfig
from common.engine import IterBasedTrainer
from common.log.metric import MetricSet
from common.optim.build import build_optimizer
from common.optim.loss import LossSet
from common.run.launch import Session, keep_freed_memory

BATCH, STEPS, ROUNDS = 64, 100, 9


class Trainer(IterBasedTrainer):
    """A classifier with several loss terms, metrics and parameter groups."""

    def __init__(self, config, session, batches, terms=1, metrics=1, groups=1):
        super().__init__(config, session)
        self.register_loader(batches, batches)
        torch.manual_seed(0)
        self.register_model(mlp(784, 512, 512, 10))
        names = {f"term_{i}": nn.CrossEntropyLoss() for i in range(terms)}
        keys = {name: ["logits", "y"] for name in names}
        self.loss = LossSet(names, dict.fromkeys(names, 1.0 / terms), keys)
        self.register_optimizer(build_optimizer(config.optim, divide(self.model, groups)))
        self.register_metric(MetricSet({f"accuracy_{i}": Accuracy() for i in range(metrics)}))

    def train_step(self, epoch, iteration, data_dict):
        """Return the logits and the losses."""
        output_dict = {"logits": self.model(data_dict["x"])}
        loss = self.loss(output_dict, data_dict)
        return output_dict, {"loss": loss["sum"], **{name: loss[name] for name in loss["names"]}}

    def val_step(self, epoch, iteration, data_dict):
        """Return the logits and the losses."""
        return self.train_step(epoch, iteration, data_dict)


def divide(model: nn.Module, groups: int) -> list[dict]:
    """Return the parameters in groups; those beyond the model's own number are of one value each, never used."""
    parameters = list(model.parameters())
    if groups == 1:
        return [{"params": parameters}]
    spare = [nn.Parameter(torch.zeros(1)) for _ in range(groups - len(parameters))]
    return [{"params": [parameter], "lr": LR} for parameter in [*parameters, *spare]]


def make_trainer(folder: Path, batches: list[dict], **numbers: int) -> Trainer:
    """Return a trainer that is ready to be driven by hand."""
    config = Config(
        trainer=TrainerConfig(mode="iter"),
        optim=OptimConfig(type="Adam", lr=LR, clip_gradients=CLIP),
        progress=ProgressConfig(epoch=1, iters_per_epoch=10**6, iter_loss=50, save_progress_val=False),
    )
    trainer = Trainer(config, Session(torch.device("cpu"), folder, None), batches, **numbers)
    trainer.prepare()
    trainer.stop.start(0)
    trainer.steps["main"].start_epoch(0)
    return trainer


def by_the_engine(trainer: Trainer, batches: list[dict]) -> None:
    """Make steps as the engine's loop does."""
    for batch in batches:
        trainer.run_iteration(0, trainer.iteration, batch)


def validate(trainer: Trainer) -> None:
    """Validate as a run does between two steps."""
    trainer.run_validation()


def by_hand(batches: list[dict], terms: int, groups: int) -> Callable[[], None]:
    """Return what makes the same steps in a plain loop, with the losses summed and metered."""
    torch.manual_seed(0)
    model = mlp(784, 512, 512, 10)
    optimizer = optim.Adam(divide(model, groups), LR, fused=True)
    losses, parameters = [nn.CrossEntropyLoss() for _ in range(terms)], list(model.parameters())

    def run() -> None:
        sums = [0.0] * terms
        for batch in batches:
            logits = model(batch["x"])
            values = [loss(logits, batch["y"]) / terms for loss in losses]
            optimizer.zero_grad()
            sum(values).backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            for i, value in enumerate(values):
                sums[i] += value.item()

    return run


def by_turns(*functions: Callable[[], None]) -> list[float]:
    """Return the median seconds of each function."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(ROUNDS + 1):
        for function, own in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            own.append(time.perf_counter() - began)
    return [statistics.median(own[1:]) for own in times]


def tell(what: str, ours: float, hand: float) -> None:
    """Print what the engine costs more than by hand, of the seconds of all steps."""
    steps = f"{1e6 * ours / STEPS:.0f} µs, by hand {1e6 * hand / STEPS:.0f}"
    print(f"{what}: {steps}: engine {1e6 * (ours - hand) / STEPS:+.0f} µs, {(ours - hand) / ours:+.1%}")


def main() -> None:
    """Measure and print."""
    logging.disable()
    logger.remove()
    keep_freed_memory()
    torch.set_num_threads(1)
    batches = [{"x": torch.randn(BATCH, 784), "y": torch.randint(10, (BATCH,))} for _ in range(STEPS)]
    with tempfile.TemporaryDirectory() as folder:
        for what in ("one of each", "ten terms", "ten groups"):
            numbers = {word: 10 for word in ("terms", "groups") if what.endswith(word)}
            trainer = make_trainer(Path(folder, what), batches, **numbers)
            plain = by_hand(batches, numbers.get("terms", 1), numbers.get("groups", 1))
            tell(f"a step, {what}", *by_turns(lambda t=trainer: by_the_engine(t, batches), plain))
        for metrics in (1, 10):
            trainer = make_trainer(Path(folder, f"{metrics}"), batches, metrics=metrics)
            plain = partial(evaluate, trainer.forms.bare["main"], batches, metrics)
            tell(f"a batch of validation, metrics {metrics}", *by_turns(lambda t=trainer: validate(t), plain))


if __name__ == "__main__":
    main()
