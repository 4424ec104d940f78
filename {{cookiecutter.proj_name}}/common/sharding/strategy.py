"""Sharded models: PyTorch's fully_shard (FSDP2) and tensor parallelism, also combined."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor.parallel import parallelize_module
from torch.optim import Optimizer

from common.config.errors import UserError
from common.config.schema import Config, DistConfig
from common.optim.step import global_norm
from common.run.distributed import get_rank, get_world_size, share_samples
from common.run.strategy import Strategy, call_method
from common.sharding.files import ShardFolderWriter, Stored, read_stored

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def group_sizes(name: str, config: DistConfig, processes: int) -> tuple[int, int, int]:
    """Return how many processes replicate the model, shard each replica, and divide each layer (tensor parallel).

    Raises:
        UserError: The configured sizes do not divide the number of processes.
    """
    if name == "tp":
        if config.tp_size not in (None, processes):
            raise UserError(
                f"dist.tp_size: with strategy tp it is the number of processes, {processes}; fsdp combines both"
            )
        return 1, 1, processes
    tp = config.tp_size or 1
    _check_divides("dist.tp_size", tp, processes)
    shard = config.shard_size or processes // tp
    _check_divides("dist.shard_size", shard, processes // tp)
    return processes // tp // shard, shard, tp


def _check_divides(key: str, size: int, processes: int) -> None:
    if size < 1 or processes % size:
        raise UserError(f"{key}: expected a divisor of {processes} processes, found {size}")


class ShardedStrategy(Strategy):
    """``fsdp`` and ``tp``: parameters are DTensors, of which each process holds a shard.

    A model's ``blocks()`` are sharded one by one; its ``tensor_parallel_plan()`` says how its layers are divided, as
    ``torch.distributed.tensor.parallel.parallelize_module`` takes it. Tensor parallel ranks are neighbors, mostly on
    one machine, and see the same samples.

    Args:
        name: ``fsdp`` or ``tp``.
        device: The device of this process.
        config: The sizes of the groups, and whether to offload.
    """

    is_sharded = True

    def __init__(self, name: str, device: torch.device, config: DistConfig):
        super().__init__(name, device)
        self._mesh = _make_mesh(device, *group_sizes(name, config, get_world_size()))

    def place(self, model: nn.Module, config: Config) -> nn.Module:
        """Prepare a model as configured, move it to the device and shard it; every rank starts from rank 0's weights.

        Raises:
            UserError: The model or the device does not support what the config asks for.
        """
        if config.trainer.channels_last:
            raise UserError(f"trainer.channels_last: goes with strategy none, dp or ddp, found {self.name}")
        if config.dist.cpu_offload and self.device.type == "cpu":
            raise UserError("dist.cpu_offload: offloads from a GPU, found cpu")
        weights = model.state_dict() if get_rank() == 0 else {}
        model = super().place(model, config)
        if self._mesh["tp"].size() > 1:
            parallelize_module(model, self._mesh["tp"], call_method(model, "tensor_parallel_plan", "dist.strategy"))
        if self.name == "fsdp":
            self._fully_shard(model, config)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(model, weights, options=options)
        return model

    def _fully_shard(self, model: nn.Module, config: Config) -> None:
        mesh, dtype = self._mesh, _DTYPES.get(config.trainer.precision)
        keys = {
            "mesh": mesh["replicate", "shard"] if mesh["replicate"].size() > 1 else mesh["shard"],
            "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype and torch.float32),
            "offload_policy": CPUOffloadPolicy() if config.dist.cpu_offload else OffloadPolicy(),
        }
        blocks: Any = getattr(model, "blocks", list)
        for block in blocks():
            fully_shard(block, **keys)
        fully_shard(model, **keys)

    def move(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, unless it is sharded."""
        is_sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        return model if is_sharded else super().move(model)

    def reshard(self, model: nn.Module) -> None:
        """Free the whole parameters that a sharded model keeps after a forward pass without a backward pass."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the whole tensor. Collective for a sharded one."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def local(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Return what this process holds of each tensor, sharing its memory."""
        return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]

    def distribute(self, values: Mapping[Any, Any], examples: Mapping[Any, Any]) -> dict[Any, Any]:
        """Return the values, each tensor sharded like the example of the same name and shape.

        Nothing is sent: a whole tensor is there on every rank, and each rank reads its shards of a ``Stored`` one.
        """
        distributed, stored = {}, {}
        for name, value in values.items():
            example = examples.get(name)
            is_alike = isinstance(example, torch.Tensor) and getattr(value, "shape", None) == example.shape
            if isinstance(value, Stored):
                empty = torch.empty_like(example.detach()) if is_alike else torch.empty(value.shape, dtype=value.dtype)
                stored[value] = value = empty
            elif is_alike and isinstance(example, DTensor) and not isinstance(value, DTensor):
                value = value.to(example.device, example.dtype)
                value = distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)
            distributed[name] = value
        read_stored(stored)
        return distributed

    def global_norm(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """Return the norm of all whole gradients together, a scalar on their device. Collective."""
        alike: dict[Any, list[torch.Tensor]] = {}  # operations on lists take tensors that are sharded alike
        for gradient in gradients:
            layout = (gradient.device_mesh, gradient.placements) if isinstance(gradient, DTensor) else None
            alike.setdefault(layout, []).append(gradient)
        norms = [self.whole(global_norm(group)) for group in alike.values()]
        return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))

    def model_part(self, model: nn.Module) -> Any:
        """Return the model as part of a checkpoint that holds whole tensors."""
        own = model.state_dict()
        return _WholePart(model, lambda state: self.distribute(state, own))

    def optimizer_part(self, optimizer: Optimizer) -> Any:
        """Return the optimizer as part of a checkpoint that holds whole tensors."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def distribute(state: dict) -> dict:
            flat = {(i, key): value for i, one in state["state"].items() for key, value in one.items()}
            flat = self.distribute(flat, {(i, key): parameters[i] for i, key in flat})
            moments = {i: {key: flat[i, key] for key in one} for i, one in state["state"].items()}
            return {**state, "state": moments}

        return _WholePart(optimizer, distribute)

    def shard_writer(self) -> ShardFolderWriter:
        """Return what writes sharded tensors beside a checkpoint's file. Collective."""
        return ShardFolderWriter()


class _WholePart:
    """A part of a checkpoint whose own tensors may be sharded, and which loads whole ones."""

    def __init__(self, part: Any, distribute: Callable[[dict], dict]):
        self.state_dict, self._part, self._distribute = part.state_dict, part, distribute

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._part.load_state_dict(self._distribute(state))


def _make_mesh(device: torch.device, replicate: int, shard: int, tp: int) -> DeviceMesh:
    share_samples(tp)
    # Every rank would warn that gathering a tensor sharded in two dimensions takes two steps.
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)
    mesh = init_device_mesh(device.type, (replicate, shard, tp), mesh_dim_names=("replicate", "shard", "tp"))
    if shard > 1 and tp > 1:
        mesh["shard", "tp"]._flatten()  # norms are then summed in one step, to the same bits on every rank
    return mesh
