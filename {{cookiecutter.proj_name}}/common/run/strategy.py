"""Where a run computes: devices, precision, how models are placed on devices and wrapped, and their forms."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from common.config.errors import UserError
from common.config.registry import open_room
from common.config.schema import Config, DistConfig, GpuIds
from common.run.distributed import is_distributed

SHARDED = ("fsdp", "tp")
MAIN = "main"  # the name of what is registered without one
_CPU = torch.device("cpu")


def gpu_numbers(gpu_ids: GpuIds) -> list[int]:
    """Return ``gpu_ids`` as a list of numbers, empty if it is not set."""
    if isinstance(gpu_ids, str):
        return [int(part) for part in gpu_ids.split(",")]
    return gpu_ids if isinstance(gpu_ids, list) else [] if gpu_ids is None else [gpu_ids]


def choose_device(gpu_ids: GpuIds, one_process: bool = False) -> torch.device:
    """Return the device of this process: the best available, the CPU for -1, or the GPU at its local rank.

    With ``one_process`` a single process feeds all of the GPUs; its own is the first. Raise a UserError if a GPU does
    not exist, or if the number of GPUs is not that of the processes on this machine.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    found, numbers = torch.cuda.device_count(), gpu_numbers(gpu_ids)
    if numbers == [-1]:
        return torch.device("cpu")
    if not numbers and not found:
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not numbers:
        # srun may show each process nothing but its own GPU.
        numbers = [0] * local_size if found == 1 else [*range(local_size)]
    if len(numbers) != local_size and not one_process:
        raise UserError(f"--gpu_ids {gpu_ids}: {len(numbers)} GPUs for {local_size} processes on this machine")
    if numbers[local_rank] >= found:
        raise UserError(f"--gpu_ids {gpu_ids}: found {found} GPUs for {local_size} processes on this machine")
    return torch.device("cuda", numbers[local_rank])


def map_nested(value: Any, change: Callable[[tuple, Any], Any], path: tuple = ()) -> Any:
    """Return nested dicts, lists and tuples with each value replaced by ``change(path, value)``.

    A container is offered before its items; where ``change`` replaces it, its items are not visited.
    """
    new = change(path, value)
    if new is not value:
        return new
    if isinstance(value, dict):
        return {key: map_nested(item, change, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        mapped = [map_nested(item, change, (*path, i)) for i, item in enumerate(value)]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    return value


def move_to(data: Any, device: torch.device) -> Any:
    """Return nested data with every tensor on the device. From pinned memory the copy runs beside the computation."""
    return map_nested(data, lambda _, value: value.to(device, non_blocking=True) if torch.is_tensor(value) else value)


def in_precision(function: Callable, device: torch.device, precision: str) -> Callable:
    """Return the function as it runs in ``fp32`` (itself), ``bf16`` or ``fp16`` mixed precision on the device."""
    if precision == "fp32":
        return function
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)(function)


class Strategy:
    """Whole models: ``none`` (one process), ``ddp`` (a copy in each process) or ``dp`` (one process, several ``gpus``).

    Every tensor is whole here, so most methods return what they are given; the subclass in the room ``sharding`` does
    more, for ``fsdp`` and ``tp``. No ``gpus`` means all.
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

    def wrap(self, model: nn.Module, alone: bool = True) -> nn.Module:
        """Return a placed model ready to train: wrapped for ``ddp`` and ``dp``, unless nothing in it is trainable.

        ``ddp`` does not wrap one of several models: one model's loss may pass through another, where the wrapper would
        wait for gradients in vain. All ranks then start with rank 0's weights, and ``OptimizerStep`` averages.
        """
        if not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        on_gpu = self.device.type == "cuda"
        if self.name == "dp":
            return DataParallel(model, self._gpus if on_gpu and self._gpus else None)
        if self.averages_at_step(alone):
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor.detach(), src=0)
        elif self.name == "ddp" and is_distributed():
            device_ids = [self.device.index] if on_gpu else None
            return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
        return model

    def averages_at_step(self, alone: bool) -> bool:
        """Return whether gradients are averaged over the ranks once, by the step, and not within the backward pass."""
        return self.name == "ddp" and is_distributed() and not alone

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


def part_name(kind: str, name: str) -> str:
    """Return a part's key in a checkpoint: ``model``, or ``model.generator`` for one of several."""
    return kind if name == MAIN else f"{kind}.{name}"


class Models:
    """The models of a run by name, in three forms whose names always mean the same.

    ``bare``: the registered modules, on their device; optimizers and checkpoints refer to these. ``wrapped``: what
    training calls, in the wrapper of their strategy such as ``DistributedDataParallel``, compiled if so configured.
    ``validation``: what evaluations call, without a wrapper. ``active`` are those of the present phase.
    """

    def __init__(self, config: Config):
        self.bare: dict[str, nn.Module] = {}
        self.wrapped: dict[str, nn.Module] = {}
        self.validation: dict[str, nn.Module] = {}
        self.active = self.bare
        self.syncs_by_hand = is_distributed() and config.trainer.accumulate > 1
        self._wrappers: list[nn.Module] = []

    def wrap(self, strategy: Strategy, mode: str | bool, alone: bool = True) -> None:
        """Wrap all models, and compile them if there is a mode; from here on training's are the active ones.

        ``alone``: a single optimizer trains them.
        """
        compiled: Any = functools.partial(torch.compile, mode=mode if isinstance(mode, str) else None)
        for name, bare in self.bare.items():
            wrapper = strategy.wrap(bare, alone)
            self._wrappers.append(wrapper)
            self.validation[name] = compiled(bare) if mode else bare
            self.wrapped[name] = self.validation[name] if wrapper is bare else compiled(wrapper) if mode else wrapper
        self.active = self.wrapped

    def sync_gradients(self, sync: bool) -> None:
        """Set whether the next pass averages the gradients over the processes: the last of an accumulation window does.

        Sharded models always do: whole gradients would take the memory that sharding saves.
        """
        for wrapper in self._wrappers:
            if isinstance(wrapper, DistributedDataParallel):
                wrapper.require_backward_grad_sync = sync
