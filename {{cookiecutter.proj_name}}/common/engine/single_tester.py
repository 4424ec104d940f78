"""Testing with one case a batch."""

from __future__ import annotations

from collections.abc import Iterator

from common.engine.base_tester import BaseTester


class SingleTester(BaseTester):
    """For loaders with a batch size of 1: the batch is the case.

    The order of events: ``before_test_epoch``; for each iteration ``before_test_step``, ``test_step``, ``eval_step``,
    ``after_test_step``; then ``after_test_epoch``.
    """

    def _cases(self, iteration: int, data_dict: dict, output_dict: dict) -> Iterator[tuple[dict, dict]]:
        yield data_dict, output_dict
