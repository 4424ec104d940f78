"""Which validation was the best, and whether to stop early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from common.config.errors import UserError, nearest


class BestTracker:
    """Follows one validation result: whether it is the best so far, and for how long it has not improved.

    Args:
        metric: Its name in the validation's summary. None: nothing is followed.
        larger: Whether larger is better.
        patience: ``should_stop`` after so many validations without an improvement. 0: never.
        min_delta: How much better counts as an improvement.
        keep: How many of the best validations keep a checkpoint of their own; with 1 there is only ``best_<metric>.pt``.
    """

    def __init__(
        self, metric: str | None, larger: bool = True, patience: int = 0, min_delta: float = 0.0, keep: int = 1
    ):
        self.metric = metric
        self.best: float | None = None
        self.top: list[tuple[float, str]] = []
        self._places = keep if keep > 1 else 0
        self._sign = 1.0 if larger else -1.0
        self._patience, self._min_delta = patience, min_delta
        self._reference: float | None = None
        self._stale = 0

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self._patience <= self._stale

    def update(self, summary: Mapping[str, float]) -> bool:
        """Take in a validation's summary and return whether it is the best so far.

        Raises:
            UserError: The summary lacks the metric.
        """
        if self.metric is None:
            return False
        if self.metric not in summary:
            raise UserError(
                f"checkpoint.best_metric: no '{self.metric}' in the validation, {nearest(self.metric, summary)}"
            )
        score = summary[self.metric]
        if self._is_better(score, self._reference, self._min_delta):
            self._reference, self._stale = score, 0
        else:
            self._stale += 1
        is_best = self._is_better(score, self.best)
        self.best = score if is_best else self.best
        return is_best

    def rank(self, summary: Mapping[str, float], name: str) -> list[str]:
        """Rank a validation among the best by the name of its checkpoint, and return the names that dropped out."""
        score = math.nan if self.metric is None else summary[self.metric]
        if math.isnan(score):
            return [name]
        self.top = sorted([*self.top, (score, name)], key=lambda entry: -self._sign * entry[0])
        dropped = [other for _, other in self.top[self._places :]]
        del self.top[self._places :]
        return dropped

    def state_dict(self) -> dict[str, Any]:
        """Return the best scores and the patience used."""
        return {
            "metric": self.metric,
            "best": self.best,
            "top": self.top,
            "reference": self._reference,
            "stale": self._stale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from ``state_dict``; another metric starts afresh."""
        if state["metric"] == self.metric:
            self.best, self._reference, self._stale = state["best"], state["reference"], state["stale"]
            self.top = [(score, name) for score, name in state["top"]]

    def _is_better(self, score: float, than: float | None, by: float = 0.0) -> bool:
        if math.isnan(score):
            return False
        return than is None or self._sign * (score - than) > by
