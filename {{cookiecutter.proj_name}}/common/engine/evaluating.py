"""The state that models are in while they are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from common.optim.ema import EMA


@contextmanager
def evaluating(models: Iterable[nn.Module], averages: Iterable[EMA] = ()) -> Iterator[None]:
    """Put models into evaluation mode, without gradients and with their averaged weights, and back as they were."""
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
