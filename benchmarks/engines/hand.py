"""The usual loop, as one writes it by hand."""

from torch import nn, optim
from torch.utils.tensorboard import SummaryWriter
from work import CLIP, LOG_EVERY, LR


def train(work, folder, fused=None):
    """Train by Adam as it comes."""
    model = work.model()
    optimizer = optim.Adam(model.parameters(), LR, fused=fused)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, work.steps)
    writer, total = SummaryWriter(folder), 0.0
    for step, batch in enumerate(work, start=1):
        loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        total += loss.item()
        if step % LOG_EVERY == 0:
            writer.add_scalar("loss", total / LOG_EVERY, step)
            writer.add_scalar("lr", scheduler.get_last_lr()[0], step)
            total = 0.0
    writer.close()
    return model
