"""The best validation, and when to stop."""

import math
import unittest

from common.config.errors import UserError
from common.log.best import BestTracker


class TestBestTracker(unittest.TestCase):
    """Scores one after another."""

    def bests(self, scores, **keys):
        selection = BestTracker("score", **keys)
        return [selection.update({"score": score}) for score in scores], selection

    def test_larger(self):
        bests, selection = self.bests([0.1, 0.3, 0.3, 0.2, 0.4])
        self.assertEqual((bests, selection.best), ([True, True, False, False, True], 0.4))

    def test_smaller(self):
        bests, selection = self.bests([0.4, 0.5, 0.3], larger=False)
        self.assertEqual((bests, selection.best), ([True, False, True], 0.3))

    def test_nan(self):
        bests, selection = self.bests([math.nan, 0.1, math.nan])
        self.assertEqual((bests, selection.best), ([False, True, False], 0.1))

    def test_patience(self):
        for scores, stops in (([0.5, 0.4], False), ([0.5, 0.4, 0.4], True), ([0.5, 0.4, 0.6, 0.4], False)):
            self.assertEqual(self.bests(scores, patience=2)[1].should_stop, stops)

    def test_no_patience_never_stops(self):
        self.assertFalse(self.bests([0.5] * 9)[1].should_stop)

    def test_many_small_steps_are_no_improvement(self):
        bests, selection = self.bests([0.0, 0.1, 0.2], patience=2, min_delta=0.5)
        self.assertEqual((bests, selection.should_stop), ([True, True, True], True))

    def test_nothing_followed(self):
        selection = BestTracker(None, patience=1)
        self.assertFalse(selection.update({}))
        self.assertFalse(selection.should_stop)

    def test_missing(self):
        with self.assertRaisesRegex(UserError, "no 'acuracy' in the validation, did you mean 'accuracy'"):
            BestTracker("acuracy").update({"accuracy": 1.0})

    def test_state(self):
        _, selection = self.bests([0.5, 0.4], patience=2)
        other = BestTracker("score", patience=2)
        other.load_state_dict(selection.state_dict())
        self.assertFalse(other.update({"score": 0.45}))
        self.assertTrue(other.should_stop)

    def test_places(self):
        selection = BestTracker("score", larger=False, keep=2)
        scores = {"a": 0.5, "b": 0.7, "c": 0.6, "d": math.nan, "e": 0.1, "f": 0.5}
        dropped = {name: selection.rank({"score": score}, name) for name, score in scores.items()}
        self.assertEqual(dropped, {"a": [], "b": [], "c": ["b"], "d": ["d"], "e": ["c"], "f": ["f"]})
        other = BestTracker("score", larger=False, keep=2)
        other.load_state_dict(selection.state_dict())
        self.assertEqual(other.rank({"score": 0.2}, "g"), ["a"])

    def test_state_of_another_metric_begins_anew(self):
        _, selection = self.bests([0.5])
        other = BestTracker("loss")
        other.load_state_dict(selection.state_dict())
        self.assertIsNone(other.best)
