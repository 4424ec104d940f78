"""Tests of the project, by pytest or unittest: a share of everything in two minutes; FULL=1 in front runs all."""

import os
import unittest
from collections.abc import Sequence
from typing import Any

from common.config.registry import has_room

FULL = bool(os.environ.get("FULL"))
slow = unittest.skipUnless(FULL, "slow: FULL=1 runs it")


def share_of(cases: Sequence[Any], every: int) -> Sequence[Any]:
    """Return every so many-th of the cases, or all of them with FULL=1."""
    return cases if FULL else cases[::every]


def needs_room(name: str) -> Any:
    """Skip a test in a project that lacks a room."""
    return unittest.skipUnless(has_room(name), f"needs common/{name}")
