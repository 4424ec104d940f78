"""The evaluation loop, which validation and testers share, and the state that models are in meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from common.data.batches import find_sizes_at, find_transform, on_device
from common.log import activations
from common.log.meters import Meters
from common.log.metric import MetricSet
from common.optim.ema import EMA

# What a step of an evaluation returns: the model's output, and dicts of results, each with its weight in the mean.
StepResult = tuple[dict[str, Any], Iterable[tuple[dict[str, Any], int]]]


CheckStop = Callable[[DataLoader, int], None]


def never_stop(loader: DataLoader, iteration: int) -> None:
    """Let an evaluation run to its end."""


def evaluate(
    loader: DataLoader,
    device: torch.device,
    step: Callable[[int, dict, int], StepResult],
    metric: MetricSet | None = None,
    check_stop: CheckStop = never_stop,
) -> dict[str, float]:
    """Run over a data set and return the mean of each result and each metric, over all ranks. Collective.

    Args:
        loader: The loader of the set.
        device: Where the batches go.
        step: Called with the iteration, the batch and the number of its samples. It is 0 for a batch of other ranks'
            samples, which keeps this rank in step with them: its results do not count.
        metric: MetricSet over the whole set, if any.
        check_stop: Called before each batch with the loader and the iteration; raises where the run is to stop.
    """
    meters, sizes_at, transform = Meters(), find_sizes_at(loader), find_transform(loader)
    if metric:
        metric.reset()
    for iteration, data_dict in enumerate(on_device(loader, device)):
        check_stop(loader, iteration)
        data_dict = transform(data_dict) if transform else data_dict
        size = sizes_at(iteration)[0] if sizes_at else 1
        output_dict, results = step(iteration, data_dict, size)
        if size:
            for result_dict, weight in results:
                meters.update(result_dict, weight)
            if metric:
                metric.update(output_dict, data_dict)
        activations.clear()
    return meters.summary() | (metric.compute() if metric else {})


@contextmanager
def evaluating(models: Iterable[nn.Module], averages: Iterable[EMA] = ()) -> Iterator[None]:
    """Put models into evaluation mode, without gradients and with their averaged weights; restore them afterwards."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    with torch.no_grad(), ExitStack() as stack:
        for average in averages:
            stack.enter_context(average.swapped_in())
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
