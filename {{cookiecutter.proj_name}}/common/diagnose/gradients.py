"""Looking for a fault: gradients by parameter, and the batch that failed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn


def gradient_table(parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    """Return a table with mean, standard deviation, norm and largest value of each parameter's gradient."""
    lines = [f"{'gradient of':<40} {'mean':>11} {'std':>11} {'norm':>11} {'max |g|':>11}"]
    for name, parameter in parameters:
        if parameter.grad is None:
            lines.append(f"{name:<40} {'none':>11}")
            continue
        gradient = parameter.grad.detach().double().cpu()
        numbers = gradient.mean(), gradient.std(correction=0), gradient.norm(), gradient.abs().max()
        lines.append(f"{name:<40} " + " ".join(f"{number:>11.3e}" for number in numbers))
    return "\n".join(lines)


def check_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raise a FloatingPointError that names each parameter whose gradient is not finite."""
    bad = [name for name, p in parameters if p.grad is not None and not torch.isfinite(p.grad).all()]
    if bad:
        raise FloatingPointError(f"the gradient is not finite in {', '.join(bad)}")


def dump_batch(folder: Path, epoch: int, iteration: int, data_dict: Any, weights: dict[str, Any]) -> Path:
    """Write the batch and the weights of a failed iteration to ``debug/`` and return the file.

    Open it with ``torch.load(file)``: ``{"epoch", "iteration", "data_dict", "models"}``.
    """
    path = folder / "debug" / f"epoch_{epoch:03d}_iter_{iteration:06d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": epoch, "iteration": iteration, "data_dict": data_dict, "models": weights}, path)
    return path
