"""Tests of the project, by pytest or unittest: a share of everything in a few minutes.

FULL=1 in front runs all tests, with a share of the long campaigns, such as runs that are killed; CAMPAIGN=1 runs these
whole, which takes an hour.
"""

import os
import unittest
from collections.abc import Sequence
from typing import Any

from common.config.registry import has_room

CAMPAIGN = bool(os.environ.get("CAMPAIGN"))
FULL = CAMPAIGN or bool(os.environ.get("FULL"))
slow = unittest.skipUnless(FULL, "slow: FULL=1 runs it")


def share_of(cases: Sequence[Any], every: int) -> Sequence[Any]:
    """Return every so many-th of the cases, or all of them with FULL=1."""
    return cases if FULL else cases[::every]


def campaign_of(cases: Sequence[Any], every: int) -> Sequence[Any]:
    """Return every so many-th case of a campaign, four times as many with FULL=1, or all with CAMPAIGN=1."""
    return cases if CAMPAIGN else cases[:: max(1, every // 4) if FULL else every]


def needs_room(name: str) -> Any:
    """Skip a test in a project that lacks a room."""
    return unittest.skipUnless(has_room(name), f"needs common/{name}")
