"""How models are placed on devices and wrapped for training, and how whole tensors relate to what a process holds."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from common.config.errors import UserError
from common.config.registry import open_room
from common.config.schema import Config, DistConfig
from common.run.device import gpu_numbers
from common.run.distributed import is_distributed

SHARDED = ("fsdp", "tp")
_CPU = torch.device("cpu")


class Strategy:
    """Whole models: ``none`` (one process), ``ddp`` (a copy in each process) or ``dp`` (one process, several GPUs).

    Every tensor is whole here, so most methods return what they are given; the room ``sharding`` has the subclass for
    ``fsdp`` and ``tp``. ``gpus`` are the numbers of the GPUs for ``dp``; none means all.
    """

    is_sharded = False

    def __init__(self, name: str = "none", device: torch.device = _CPU, gpus: Sequence[int] = ()):
        self.name, self.device, self._gpus = name, device, list(gpus)

    def place(self, model: nn.Module, config: Config) -> nn.Module:
        """Prepare a model as configured and move it to the device; build its optimizer afterwards."""
        if config.dist.sync_batchnorm:
            if self.device.type != "cuda":
                raise UserError(f"dist.sync_batchnorm: torch has it on GPUs only, found {self.device.type}")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if config.trainer.activation_checkpointing:
            for block in call_method(model, "blocks", "trainer.activation_checkpointing"):
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        if not config.trainer.channels_last:
            return self.move(model)
        if any(tensor.ndim == 5 for tensor in [*model.parameters(), *model.buffers()]):
            found = type(model).__name__
            raise UserError(f"trainer.channels_last: is for images, and {found} has weights of 5 dimensions")
        layout: Any = {"memory_format": torch.channels_last}
        return model.to(self.device, **layout)

    def move(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, unless its parameters are sharded: those are there already."""
        return model.to(self.device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a placed model ready to train: wrapped for ``ddp`` and ``dp``, unless nothing in it is trainable."""
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        on_gpu = self.device.type == "cuda"
        if self.name == "dp":
            return DataParallel(model, self._gpus if on_gpu and self._gpus else None)
        if self.name == "ddp" and is_distributed():
            device_ids = [self.device.index] if on_gpu else None
            return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
        return model

    def reshard(self, model: nn.Module) -> None:
        """Free the whole parameters that a sharded model keeps after a forward pass without a backward pass."""

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the whole tensor. Collective for a sharded one."""
        return tensor

    def local(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Return what this process holds of each tensor, sharing its memory."""
        return list(tensors)

    def distribute(self, values: Mapping[Any, Any], examples: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the values, whole tensors among them sharded like the example of the same name and shape."""
        return dict(values)

    def model_part(self, model: nn.Module) -> Any:
        """Return the model as part of a checkpoint, which holds whole tensors under any strategy."""
        return model

    def optimizer_part(self, optimizer: Optimizer) -> Any:
        """Return the optimizer as part of a checkpoint."""
        return optimizer

    def shard_writer(self) -> Any:
        """Return what writes sharded tensors beside a checkpoint's file (``ShardFolderWriter``), or None."""
        return None


WHOLE = Strategy()  # of parts that are used on their own


def choose_strategy(config: DistConfig, processes: int) -> str:
    """Return the strategy for so many processes; raise a UserError if it does not support them or its groups' sizes."""
    name = config.strategy
    if name == "auto":
        name = "ddp" if processes > 1 else "none"
    if name in ("none", "dp") and processes > 1:
        raise UserError(f"dist.strategy: {name} trains in one process, found {processes}; ddp and fsdp take several")
    if name not in SHARDED and config.tp_size is not None:
        raise UserError(f"dist.tp_size: goes with strategy fsdp or tp, found {name}")
    if name != "fsdp" and (config.shard_size is not None or config.cpu_offload):
        raise UserError(f"dist.shard_size and dist.cpu_offload: go with strategy fsdp, found {name}")
    if name in SHARDED:
        open_room("sharding", "dist.strategy").group_sizes(name, config, processes)
    return name


def make_strategy(name: str, config: Config, device: torch.device) -> Strategy:
    """Make the strategy of that name, once the process group is up. Collective for fsdp and tp."""
    if name in SHARDED:
        return open_room("sharding", "dist.strategy").ShardedStrategy(name, device, config.dist)
    return Strategy(name, device, gpu_numbers(config.gpu_ids))


def call_method(model: nn.Module, name: str, key: str) -> Any:
    """Call a method of a model that the config key ``key`` needs; raise a UserError if there is none."""
    if not hasattr(model, name):
        raise UserError(f"{key}: needs a method {name}() of {type(model).__name__}, found none")
    return getattr(model, name)()


def sync_buffers(models: Iterable[nn.Module]) -> None:
    """Give all ranks rank 0's buffers, such as the running statistics of batch norm, which each rank updates."""
    if is_distributed():
        for buffer in (buffer for model in models for buffer in model.buffers()):
            dist.broadcast(buffer, src=0)


def set_gradient_sync(models: Iterable[nn.Module], sync: bool) -> None:
    """Set whether the next forward and backward pass averages the gradients over the processes.

    Within an accumulation window only the last pass needs to. Sharded models always average: whole gradients would take
    the memory that sharding saves.
    """
    for model in models:
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = sync
