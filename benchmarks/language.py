"""A step of the language example beside a loop by hand in the manner of nanoGPT: python benchmarks/language.py

Both train a GPT of the example's size on blocks of the same text, with fused AdamW in two groups, clipping, a cosine
and a log every ten steps, in one process and by turns; each draws its own batches. Told are the medians of the blocks
of steps, and the median of the ratios of neighboring ones.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from loguru import logger
from torch import nn
from torch.nn import functional

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.proj_name}}"
sys.path.insert(0, str(PROJECT))

from common.config.load import load_config  # noqa: E402
from common.run.launch import Session, keep_freed_memory  # noqa: E402

LOG_EVERY, TOTAL = 10, 1000


class Attention(nn.Module):
    """Causal self-attention, its queries, keys and values in one layer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.attend, self.project = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        """Return (batch, time, width)."""
        batch, time_, width = x.shape
        q, k, v = self.attend(x).split(width, dim=2)
        q, k, v = (one.view(batch, time_, self.heads, width // self.heads).transpose(1, 2) for one in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.project(y.transpose(1, 2).contiguous().view(batch, time_, width))


class Layer(nn.Module):
    """Attention and two linear layers, each behind a norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x):
        """Return (batch, time, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainGPT(nn.Module):
    """A GPT as one writes it by hand, with the embedding as its last layer."""

    def __init__(self, vocab_size: int, context: int, width: int, depth: int, heads: int):
        super().__init__()
        self.embedding, self.position = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.head.weight = self.embedding.weight

    def forward(self, tokens, target):
        """Return the loss."""
        x = self.embedding(tokens) + self.position(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), target.view(-1))


def by_hand(config, text: np.ndarray) -> Callable[[int], None]:
    """Return what makes so many steps in a loop by hand."""
    shape = {key: value for key, value in config.model.items() if key not in ("type", "dropout")}
    model, context, batch = PlainGPT(**shape), config.model["context"], config.batch_size
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, config.optim.lr, betas=(0.9, 0.95), fused=True)
    done = SimpleNamespace(steps=0)

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.randint(len(text) - context, (batch,)).tolist()
        x = torch.stack([torch.from_numpy(text[i : i + context].astype(np.int64)) for i in places])
        y = torch.stack([torch.from_numpy(text[i + 1 : i + 1 + context].astype(np.int64)) for i in places])
        return x, y

    def run(steps: int) -> None:
        model.train()
        for _ in range(steps):
            share = 0.5 * (1 + math.cos(math.pi * done.steps / TOTAL))
            for group in optimizer.param_groups:
                group["lr"] = config.optim.lr * min(1.0, (done.steps + 1) / 100) * share
            loss = model(*read())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_gradients)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done.steps += 1
            if done.steps % LOG_EVERY == 0:
                loss.item()

    return run


def by_the_engine(config, folder: Path) -> tuple[Callable[[int], None], np.ndarray]:
    """Return what makes so many steps as the engine's loop does, and the text that it reads."""
    from custom.trainers.language_trainer import LanguageTrainer

    trainer = LanguageTrainer(config, Session(torch.device("cpu"), folder, None))
    trainer.prepare()
    trainer.stop.start(0)
    trainer.steps["main"].start_epoch(0)
    trainer.model.train()
    batches = trainer.batches.open(0, 0, 0)

    def run(steps: int) -> None:
        for _ in range(steps):
            trainer.run_iteration(0, trainer.iteration, next(batches))

    return run, trainer.train_loader.dataset.dataset.corpus.tokens


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=5, help="steps a block (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    words, flags = parser.parse_known_args()
    logging.disable()
    logger.remove()
    keep_freed_memory()
    torch.set_num_threads(words.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = [f"--dataset.{split}.cache={folder}/text" for split in ("train", "val")]
        progress = ["--progress.iter_loss", str(LOG_EVERY), "--progress.iters_per_epoch", str(TOTAL)]
        config = load_config(["--config", str(PROJECT / "configs/language.yaml"), *data, *progress, *flags])
        ours, text = by_the_engine(config, Path(folder, "run"))
        hand = by_hand(config, text)
        turns, times = [("ours", ours), ("hand", hand)], {"ours": [], "hand": []}
        for round_ in range(words.rounds + 1):
            for name, function in turns[:: 1 if round_ % 2 else -1]:
                began = time.perf_counter()
                function(words.steps)
                times[name].append((time.perf_counter() - began) / words.steps)
    medians = {name: 1e3 * statistics.median(own[1:]) for name, own in times.items()}
    smallest = {name: 1e3 * min(own[1:]) for name, own in times.items()}
    ratio = statistics.median(one / other for one, other in zip(times["ours"][1:], times["hand"][1:], strict=True))
    print(f"a step: {medians['ours']:.1f} ms, by hand {medians['hand']:.1f}: ratio {ratio:.3f}")
    print(f"the fastest block: {smallest['ours']:.1f} ms, by hand {smallest['hand']:.1f}")


if __name__ == "__main__":
    main()
