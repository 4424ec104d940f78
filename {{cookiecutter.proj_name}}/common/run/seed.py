"""Random numbers: seeded at the start, for each sample and each validation, and kept in checkpoints."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from common.run.distributed import gather, get_rank


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch; with ``deterministic`` torch uses only operations that repeat to the last bit."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def derive_seed(*numbers: int) -> int:
    """Return a seed below 2³² that depends on all of the numbers, which are not negative (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def random_state_kept(*seeds: int) -> Iterator[None]:
    """Let what happens inside the ``with`` draw random numbers of its own: those drawn afterwards are not moved.

    Args:
        *seeds: Numbers to derive the inner seed from. None: the inner numbers begin with the outer ones.
    """
    states = _states()
    try:
        if seeds:
            seed_everything(derive_seed(*seeds))
        yield
    finally:
        _set_states(states)


class RandomState:
    """The state of every random number generator on every rank, as a part of a checkpoint."""

    def state_dict(self) -> dict:
        """Return the states by rank. Collective."""
        states = _states()
        version, words, gauss = states["python"]
        name, keys, *rest = states["numpy"]
        words, keys = torch.tensor(words), torch.from_numpy(keys.astype(np.int64))
        plain = {"python": [version, words, gauss], "numpy": [name, keys, *rest]}
        return dict(enumerate(gather(states | plain)))

    def load_state_dict(self, state: dict) -> None:
        """Take this rank's states over; a rank that was not there when they were saved keeps its own."""
        if get_rank() not in state:
            return
        states = state[get_rank()]
        version, words, gauss = states["python"]
        name, keys, *rest = states["numpy"]
        python, numpy = (version, tuple(words.tolist()), gauss), (name, keys.numpy().astype(np.uint32), *rest)
        _set_states(states | {"python": python, "numpy": numpy})


def _states() -> dict:
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_states(states: dict) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
