"""Room: models, optimizers and checkpoints that are sharded over processes (fsdp, tensor parallel)."""

from common.sharding.strategy import ShardedStrategy, group_sizes

__all__ = ["ShardedStrategy", "group_sizes"]
