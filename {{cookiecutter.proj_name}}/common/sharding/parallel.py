"""How a model is spread over processes and devices, and taken out of its wrapper again."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from common.config.errors import UserError
from common.config.schema import Config, DistConfig
from common.run.distributed import get_rank, get_world_size, is_distributed, share_samples

SHARDED = ("fsdp", "tp")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def gpu_numbers(gpu_ids: int | list[int] | str | None) -> list[int | None]:
    """Return what ``gpu_ids`` says as a list of numbers; of None if it says nothing."""
    if isinstance(gpu_ids, str):
        return [int(part) for part in gpu_ids.split(",")]
    return gpu_ids if isinstance(gpu_ids, list) else [gpu_ids]


def choose_strategy(config: DistConfig, processes: int) -> str:
    """Return the strategy that a config means with so many processes: none, dp, ddp, fsdp or tp.

    Raises:
        UserError: The strategy does not go with that number of processes, or with the sizes of its groups.
    """
    strategy = config.strategy
    if strategy == "auto":
        strategy = "ddp" if processes > 1 else "none"
    if strategy in ("none", "dp") and processes > 1:
        raise UserError(
            f"dist.strategy: {strategy} trains in one process, found {processes}; ddp and fsdp take several"
        )
    if strategy == "tp" and config.tp_size not in (None, processes):
        raise UserError(f"dist.tp_size: with strategy tp it is the number of processes, {processes}; fsdp crosses both")
    if strategy not in SHARDED and config.tp_size is not None:
        raise UserError(f"dist.tp_size: goes with strategy fsdp or tp, found {strategy}")
    if strategy != "fsdp" and (config.shard_size is not None or config.cpu_offload):
        raise UserError(f"dist.shard_size and dist.cpu_offload: go with strategy fsdp, found {strategy}")
    if strategy == "fsdp":
        _check_divides("dist.tp_size", config.tp_size or 1, processes)
        data = processes // (config.tp_size or 1)
        _check_divides("dist.shard_size", config.shard_size or data, data)
    return strategy


def _check_divides(key: str, size: int, processes: int) -> None:
    if size < 1 or processes % size:
        raise UserError(f"{key}: expected a divisor of {processes} processes, found {size}")


def make_mesh(strategy: str, config: DistConfig, device: torch.device) -> DeviceMesh | None:
    """Arrange the processes for a strategy that shards: in groups that replicate, shard, and divide layers (tp).

    The last are neighbours, mostly on one machine. Without such a strategy there is no mesh.
    """
    if strategy not in SHARDED:
        return None
    world = get_world_size()
    tp = world if strategy == "tp" else config.tp_size or 1
    shard = config.shard_size or world // tp
    share_samples(tp)
    # That a tensor spread in two ways is gathered in two steps is known, and is told by every rank.
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)
    mesh = init_device_mesh(device.type, (world // tp // shard, shard, tp), mesh_dim_names=("replicate", "shard", "tp"))
    if shard > 1 and tp > 1:
        mesh["shard", "tp"]._flatten()  # so that a norm is summed in one step, to the same bits on every rank
    return mesh


def place(model: nn.Module, device: torch.device, mesh: DeviceMesh | None, config: Config) -> nn.Module:
    """Move a model to the device and, with a mesh, shard its parameters; they are what an optimizer is built over.

    Every rank begins with the weights of rank 0. What a model says of itself: ``blocks()`` returns the modules that
    are sharded, and recomputed by ``trainer.activation_checkpointing``, one by one; ``tensor_parallel_plan()`` returns
    how its layers are divided, as ``torch.distributed.tensor.parallel.parallelize_module`` takes it.

    Raises:
        UserError: The model says nothing of what the config asks for.
    """
    if config.dist.sync_batchnorm:
        if device.type != "cuda":
            raise UserError(f"dist.sync_batchnorm: torch has it on GPUs only, found {device.type}")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.trainer.channels_last and mesh is not None:
        raise UserError(f"trainer.channels_last: goes with strategy none, dp or ddp, found {config.dist.strategy}")
    if config.trainer.channels_last and any(one.ndim == 5 for one in [*model.parameters(), *model.buffers()]):
        raise UserError(f"trainer.channels_last: is for images, and {type(model).__name__} has weights of 5 dimensions")
    if config.dist.cpu_offload and device.type == "cpu":
        raise UserError("dist.cpu_offload: offloads from a GPU, found cpu")
    if config.trainer.activation_checkpointing:
        for block in _asked(model, "blocks", "trainer.activation_checkpointing"):
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    weights = model.state_dict() if get_rank() == 0 else {}
    model = model.to(device, memory_format=torch.channels_last if config.trainer.channels_last else None)
    if mesh is not None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        _shard(model, mesh, config)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, weights, options=options)
    return model


def _shard(model: nn.Module, mesh: DeviceMesh, config: Config) -> None:
    if mesh["tp"].size() > 1:
        parallelize_module(model, mesh["tp"], _asked(model, "tensor_parallel_plan", "dist.strategy"))
    if config.dist.strategy != "fsdp":
        return
    dtype = _DTYPES.get(config.trainer.precision)
    keys = {
        "mesh": mesh["replicate", "shard"] if mesh["replicate"].size() > 1 else mesh["shard"],
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype and torch.float32),
        "offload_policy": CPUOffloadPolicy() if config.dist.cpu_offload else OffloadPolicy(),
    }
    for block in model.blocks() if hasattr(model, "blocks") else ():
        fully_shard(block, **keys)
    fully_shard(model, **keys)


def _asked(model: nn.Module, method: str, key: str) -> Iterable:
    if not hasattr(model, method):
        raise UserError(f"{key}: needs a method {method}() of {type(model).__name__}, found none")
    return getattr(model, method)()


def wrap(model: nn.Module, device: torch.device, strategy: str, gpus: list[int | None]) -> nn.Module:
    """Return the model ready to train: in the wrapper of dp (over the GPUs) or ddp, itself with another strategy.

    A model without trainable parameters needs no wrapper and gets none.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    if strategy == "dp":
        return DataParallel(model, gpus if device.type == "cuda" and gpus != [None] else None)
    if strategy == "ddp" and is_distributed():
        device_ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
    return model


def sync_buffers(models: Iterable[nn.Module]) -> None:
    """Give every rank the buffers of rank 0, such as batch-norm's statistics, which each rank moves on its own."""
    if is_distributed():
        for model in models:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


def set_gradient_sync(models: Iterable[nn.Module], sync: bool) -> None:
    """Say whether the next forward and backward pass averages the gradients over the processes.

    Inside an accumulation window only the last one needs to. Sharded models average every time: to keep whole gradients
    until then would take the memory that sharding saves.
    """
    for model in models:
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = sync


def reshard(model: nn.Module) -> None:
    """Let go of the whole parameters that a sharded model keeps after a forward pass without a backward pass."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
