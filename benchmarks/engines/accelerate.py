"""Hugging Face Accelerate."""

import torch
from accelerate import Accelerator
from torch import nn, optim
from work import CLIP, LOG_EVERY, LR


def train(work, folder):
    """Train by the loop of its documentation."""
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(folder))
    accelerator.init_trackers("run")
    model = work.model()
    optimizer = optim.Adam(model.parameters(), LR)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, work.steps)
    # Its schedule makes a step for each process; the batches here are those of one.
    model, optimizer = accelerator.prepare(model, optimizer)
    total = 0.0
    for step, batch in enumerate(work, start=1):
        loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        total += loss.item()
        if step % LOG_EVERY == 0:
            accelerator.log({"loss": total / LOG_EVERY, "lr": scheduler.get_last_lr()[0]}, step=step)
            total = 0.0
    accelerator.end_training()
    return accelerator.unwrap_model(model)


def validate(work, folder):
    """Validate by the loop of its documentation."""
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(work.model()).eval()
    losses, right = [], []
    for batch in work:
        with torch.no_grad():
            logits = model(batch["x"])
        loss = nn.functional.cross_entropy(logits, batch["y"], reduction="none")
        guesses, labels, loss = accelerator.gather_for_metrics((logits.argmax(1), batch["y"], loss))
        losses.append(loss)
        right.append(guesses == labels)
    return {"loss": torch.cat(losses).mean().item(), "accuracy": torch.cat(right).float().mean().item()}
