"""Which validation was the best, and whether to stop early."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.config.errors import UserError, nearest


class BestTracker:
    """Follows ``metric`` of the validations (None: nothing): which was the best, and for how long none has improved it.

    Args:
        patience: ``should_stop`` after so many validations without an improvement by ``min_delta``; 0 is never.
        keep: How many of the best validations keep a checkpoint of their own; with 1 only ``best_<metric>.pt`` is kept.
    """

    def __init__(self, metric: str | None, larger: bool = True, patience: int = 0, min_delta: float = 0, keep: int = 1):
        self.metric, self.larger, self._sign = metric, larger, 1.0 if larger else -1.0
        self.file = f"best_{metric}".replace("/", "_")  # the name of its checkpoint
        self._patience, self._min_delta, self._places = patience, min_delta, keep if keep > 1 else 0
        self.best: float | None = None
        self.last: dict[str, float] = {}  # the last summary
        self.top: list[tuple[float, str]] = []
        self._reference: float | None = None
        self._stale = 0

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self._patience <= self._stale

    def update(self, summary: Mapping[str, float]) -> bool:
        """Take in a validation's summary and return whether it is the best so far."""
        self.last = dict(summary)
        if self.metric is None:
            return False
        self.check(summary)
        score, self._stale = summary[self.metric], self._stale + 1
        if self._is_better(score, self._reference, self._min_delta):
            self._reference, self._stale = score, 0
        is_best = self._is_better(score, self.best)
        self.best = score if is_best else self.best
        return is_best

    def check(self, names: Iterable[str]) -> None:
        """Raise a UserError if the metric is not among the names of a validation's results."""
        if self.metric is not None and self.metric not in (names := [*names]):
            hint = nearest(self.metric, names)
            raise UserError(f"checkpoint.best_metric: no '{self.metric}' in the validation, {hint}")

    def rank(self, summary: Mapping[str, float], name: str) -> list[str]:
        """Rank a validation among the best by the name of its checkpoint, and return the names that dropped out."""
        score = math.nan if self.metric is None else summary[self.metric]
        entries = [] if math.isnan(score) else [(score, name)]
        ranked = sorted([*self.top, *entries], key=lambda entry: -self._sign * entry[0])
        self.top = ranked[: self._places]
        return [other for _, other in ranked[self._places :]] + ([] if entries else [name])

    def _is_better(self, score: float, than: float | None, by: float = 0.0) -> bool:
        if than is None:
            return not math.isnan(score)
        return self._sign * (score - than) > by

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores and the patience used."""
        state = {"metric": self.metric, "best": self.best, "top": self.top}
        return state | {"reference": self._reference, "stale": self._stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from ``state_dict``; another metric starts afresh."""
        if state["metric"] == self.metric:
            self.best, self._reference, self._stale = state["best"], state["reference"], state["stale"]
            self.top = [(score, name) for score, name in state["top"]]


class Trackers:
    """The trackers of several metrics as one part of a checkpoint, each of which finds its own state there."""

    def __init__(self, trackers: Sequence[BestTracker]):
        self._trackers = trackers

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the first, and with it those of the others."""
        first, *others = [tracker.state_dict() for tracker in self._trackers]
        return {**first, "others": others}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from ``state_dict``; metrics that are new start afresh."""
        for saved in [state, *state.get("others", [])]:
            for tracker in self._trackers:
                tracker.load_state_dict(saved)
