"""How a model is spread over processes, and taken out of its wrapper again."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.distributed import is_distributed


def parallelize(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model ready to train: in DistributedDataParallel with several processes, itself with one.

    A model without trainable parameters needs no wrapper and gets none.
    """
    if not is_distributed() or not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    device_ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)


def sync_buffers(models: Iterable[nn.Module]) -> None:
    """Give every rank the buffers of rank 0, such as batch-norm's statistics, which each rank moves on its own."""
    if is_distributed():
        for model in models:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


def set_gradient_sync(models: Iterable[nn.Module], sync: bool) -> None:
    """Say whether the next forward and backward pass averages the gradients over the processes.

    Inside an accumulation window only the last one needs to.
    """
    for model in models:
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = sync
