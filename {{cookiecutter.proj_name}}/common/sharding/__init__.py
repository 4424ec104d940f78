"""Room: models, optimizers and checkpoints of which each process holds a part (fsdp, tensor parallel)."""
