"""Which validation was the best, and whether it is time to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping

from common.config.errors import UserError, nearest


class Selection:
    """Follows one validation result: is it the best so far, and how long has none been better?

    Args:
        metric: Its name in the validation's summary. None: nothing is followed.
        larger: Whether larger is better.
        patience: ``should_stop`` after so many validations without a better one. 0: never.
        min_delta: How much better counts as better for the patience.
        keep: How many of the best have a place in ``top``; with 1 the best alone is told by ``update``.
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
        if self._better(score, self._reference, self._min_delta):
            self._reference, self._stale = score, 0
        else:
            self._stale += 1
        if self._better(score, self.best):
            self.best = score
            return True
        return False

    def place(self, summary: Mapping[str, float], name: str) -> list[str]:
        """Enter a validation among the best ones by a name, and return the names that have no place there any more."""
        score = math.nan if self.metric is None else summary[self.metric]
        if not math.isnan(score):
            self.top.append((score, name))
        self.top.sort(key=lambda entry: -self._sign * entry[0])
        dropped = [other for _, other in self.top[self._places :]]
        del self.top[self._places :]
        return dropped if not math.isnan(score) else [*dropped, name]

    @property
    def should_stop(self) -> bool:
        """Whether the patience is used up."""
        return 0 < self._patience <= self._stale

    def state_dict(self) -> dict:
        """Return the best score and the patience used."""
        own = {"metric": self.metric, "best": self.best, "top": self.top}
        return own | {"reference": self._reference, "stale": self._stale}

    def load_state_dict(self, state: dict) -> None:
        """Go on from ``state_dict``; another metric begins anew."""
        if state["metric"] == self.metric:
            self.best, self._reference, self._stale = state["best"], state["reference"], state["stale"]
            self.top = [(score, name) for score, name in state["top"]]

    def _better(self, score: float, than: float | None, by: float = 0.0) -> bool:
        if score != score:  # NaN is never the best
            return False
        return than is None or self._sign * (score - than) > by
