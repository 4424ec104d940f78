"""Testing in batches, evaluated case by case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from common.engine.base_tester import BaseTester


class BatchTester(BaseTester):
    """For any batch size: ``test_step`` sees the batch, ``eval_step`` and ``after_test_step`` see each of its cases.

    The order of events: ``before_test_epoch``; for each iteration ``before_test_step``, ``test_step``,
    ``split_batch_dict``, and for each case ``eval_step`` and ``after_test_step``; then ``after_test_epoch``.
    """

    def split_batch_dict(self, iteration: int, data_dict: dict, output_dict: dict) -> tuple[list[dict], list[dict]]:
        """Return the data dicts and the output dicts of the batch's single cases.

        The batch is as long as the first tensor in ``data_dict``. Tensors and lists of that length are taken apart, at
        any depth of dicts, and a tensor loses that dimension; everything else goes to each case whole. Override it
        where a batch looks different.
        """
        size = next(len(value) for value in data_dict.values() if isinstance(value, torch.Tensor))
        return [_case(data_dict, i, size) for i in range(size)], [_case(output_dict, i, size) for i in range(size)]

    def _cases(self, iteration: int, data_dict: dict, output_dict: dict) -> Iterator[tuple[dict, dict]]:
        yield from zip(*self.split_batch_dict(iteration, data_dict, output_dict), strict=True)


def _case(value: Any, index: int, size: int) -> Any:
    if isinstance(value, dict):
        return {key: _case(item, index, size) for key, item in value.items()}
    sized = isinstance(value, list) or (isinstance(value, torch.Tensor) and value.ndim > 0)
    return value[index] if sized and len(value) == size else value
