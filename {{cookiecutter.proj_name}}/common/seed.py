"""Random numbers: seeded at the start, kept in checkpoints."""

from __future__ import annotations

import os
import random

import numpy as np
import torch

from common.distributed import gather, get_rank


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch; with ``deterministic`` torch uses only operations that repeat to the last bit."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


class RandomState:
    """The state of every random number generator on every rank, as a part of a checkpoint."""

    def state_dict(self) -> dict:
        """Return the states by rank. Collective."""
        return dict(enumerate(gather(_states())))

    def load_state_dict(self, state: dict) -> None:
        """Take this rank's states over; a rank that was not there when they were saved keeps its own."""
        if get_rank() in state:
            _set_states(state[get_rank()])


def _states() -> dict:
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_states(states: dict) -> None:
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
