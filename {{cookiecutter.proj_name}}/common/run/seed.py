"""Random numbers: seeded at the start, for each sample and each validation, and kept in checkpoints."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    """Restore the random state afterwards; inside the ``with`` it is seeded from all ``seeds``, if there are any."""
    states = _states()
    try:
        if seeds:
            seed_everything(derive_seed(*seeds))
        yield
    finally:
        _set_states(states)


class RandomState:
    """The state of every random number generator on every rank, as part of a checkpoint."""

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """Return the states by rank. Collective."""
        return dict(enumerate(gather(take_states())))

    def load_state_dict(self, state: dict[int, dict[str, Any]]) -> None:
        """Restore this rank's states; a rank that did not exist when they were saved keeps its own."""
        if get_rank() in state:
            put_states(state[get_rank()])


def take_states() -> dict[str, Any]:
    """Return the state of each generator of this process, as plain values and tensors."""
    states = _states()
    version, words, gauss = states["python"]
    name, keys, *rest = states["numpy"]
    python, numpy = [version, torch.tensor(words), gauss], [name, torch.from_numpy(keys.astype(np.int64)), *rest]
    return states | {"python": python, "numpy": numpy}


def put_states(states: dict[str, Any]) -> None:
    """Restore what ``take_states`` returned."""
    version, words, gauss = states["python"]
    name, keys, *rest = states["numpy"]
    python, numpy = (version, tuple(words.tolist()), gauss), (name, keys.numpy().astype(np.uint32), *rest)
    _set_states({**states, "python": python, "numpy": numpy})


def _states() -> dict[str, Any]:
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
