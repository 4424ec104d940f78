"""The usual loop, as one writes it by hand."""

import contextlib

import torch
import torch.distributed as dist
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from work import CLIP, LOG_EVERY, LR


def train(work, folder, fused=None):
    """Train by Adam as it comes."""
    model = run = work.model()
    if work.processes > 1:
        dist.init_process_group("gloo")
        run = DistributedDataParallel(model)
    optimizer = optim.Adam(model.parameters(), LR, fused=fused)
    every = 4 if work.feature == "accumulate" else 1
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, work.steps // every)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999)) if work.feature == "ema" else None
    run = torch.compile(run) if work.feature == "compile" else run
    in_bf16 = work.feature == "bf16"
    writer, total = SummaryWriter(folder), 0.0
    for step, batch in enumerate(work, start=1):
        with torch.autocast("cpu", torch.bfloat16) if in_bf16 else contextlib.nullcontext():
            loss = nn.functional.cross_entropy(run(batch["x"]), batch["y"])
        (loss if every == 1 else loss / every).backward()
        if step % every == 0:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if average:
                average.update_parameters(model)
        total += loss.item()
        if step % LOG_EVERY == 0:
            if work.processes > 1:
                everywhere = torch.tensor(total / work.processes)
                dist.all_reduce(everywhere)
                total = everywhere.item()
            writer.add_scalar("loss", total / LOG_EVERY, step)
            writer.add_scalar("lr", scheduler.get_last_lr()[0], step)
            total = 0.0
    writer.close()
    return model


def evaluate(model, batches, metrics=1):
    """Return the mean loss and the share of right guesses, the latter measured so many times."""
    model.eval()
    loss, right, count = 0.0, [0] * metrics, 0
    with torch.no_grad():
        for batch in batches:
            logits = model(batch["x"])
            loss += nn.functional.cross_entropy(logits, batch["y"]).item() * len(logits)
            for i in range(metrics):
                right[i] += (logits.argmax(1) == batch["y"]).sum().item()
            count += len(logits)
    return {"loss": loss / count, "accuracy": right[0] / count}


def validate(work, folder):
    """Return the mean loss and the share of right guesses."""
    return evaluate(work.model(), work)
