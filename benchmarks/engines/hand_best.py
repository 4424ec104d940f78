"""The fastest loop found by hand, with the same features: fused Adam, kept lists, the schedule in closed form."""

import math

import torch
from torch import nn, optim
from torch.utils.tensorboard import SummaryWriter
from work import CLIP, LOG_EVERY, LR


def train(work, folder):
    """Train with no call that can be spared."""
    model = work.model()
    parameters = list(model.parameters())
    optimizer = optim.Adam(parameters, LR, fused=True)
    (group,) = optimizer.param_groups
    writer, losses = SummaryWriter(folder), []
    for step, batch in enumerate(work, start=1):
        loss = nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()
        gradients = [parameter.grad for parameter in parameters]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (CLIP / (norm + 1e-6)).clamp_(max=1.0))
        optimizer.step()
        for parameter in parameters:
            parameter.grad = None
        group["lr"] = LR * (1 + math.cos(math.pi * step / work.steps)) / 2
        losses.append(loss.detach())
        if step % LOG_EVERY == 0:
            writer.add_scalar("loss", torch.stack(losses).mean().item(), step)
            writer.add_scalar("lr", group["lr"], step)
            losses = []
    writer.close()
    return model
