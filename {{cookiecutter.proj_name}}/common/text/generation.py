"""Text that a model makes up: token by token, each drawn from what the model expects next."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from common.text.tokens import Tokens
from common.text.transformer import Cache


def draw_next(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return a token for each row of logits (batch, tokens): int64 (batch, 1).

    Args:
        temperature: What the logits are divided by; 0 for the likeliest token.
        top_k: Draw from so many of the likeliest tokens; None for all.
        generator: What draws; None for torch's own.
    """
    if temperature < 0 or (top_k is not None and top_k < 1):
        raise ValueError(f"expected temperature from 0 and top_k from 1, found {temperature} and {top_k}")
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


@torch.no_grad()
def generate(model: Any, tokens: torch.Tensor, count: int, **drawing: Any) -> torch.Tensor:
    """Return the ``count`` tokens that follow tokens (batch, time), at least one: int64 (batch, count).

    Args:
        model: Returns logits (batch, time, tokens) for at most ``model.context`` tokens (all of them if it has no such
            limit), and is in evaluation mode. If its ``forward`` takes a ``cache``, it has ``blocks()``, and reads each
            token once; where the context is full, it goes on from the last half of it. Otherwise it reads all tokens
            for each new one.
        **drawing: What ``draw_next`` takes besides.
    """
    given, context = tokens.shape[1], getattr(model, "context", tokens.shape[1] + count)
    takes_cache = "cache" in inspect.signature(model.forward).parameters
    unread, cache = tokens[:, -context:], None
    for _ in range(count):
        if takes_cache:
            cache = cache or Cache(len(model.blocks()), context)
        logits = model(unread, cache) if takes_cache else model(unread)
        tokens = torch.cat([tokens, draw_next(logits[:, -1], **drawing)], dim=1)
        if cache is None:
            unread = tokens[:, -context:]
        elif cache.length < context:
            unread = tokens[:, -1:]
        else:
            unread, cache = tokens[:, -max(1, context // 2) :], None
    return tokens[:, given:]


def continue_text(model: nn.Module, tokens: Tokens, prompt: str, count: int, seed: int = 0, **drawing: Any) -> str:
    """Return a prompt and the ``count`` tokens that a model sets behind it, as text.

    It is the same for the same seed, and on all ranks, which must all call it where the model is sharded. Characters
    that would control a terminal become U+FFFD.
    """
    device = next(model.parameters()).device
    start = [*tokens.separator, *tokens.encode(prompt.encode()).tolist()] or [0]
    generator = torch.Generator(device).manual_seed(seed)
    made = generate(model, torch.tensor([start], device=device), count, generator=generator, **drawing)
    text = prompt + tokens.decode(made[0].tolist())
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
