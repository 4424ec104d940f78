"""Averages that stay on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from common.run.distributed import gather_data, get_data_rank, get_data_size, get_rank

Scalar = float | torch.Tensor
Sums = dict[str, tuple[float, float]]  # name → weighted sum, weight


class Meters:
    """Sample-weighted means of named scalars over two windows: since the last ``flush``, and since the last ``reset``.

    ``update`` only keeps references, so a step does not synchronize with the device; ``flush`` and ``summary`` sum over
    the steps and all ranks.
    """

    def __init__(self):
        self._pending: dict[str, list[tuple[Scalar, int]]] = {}
        self._window: Sums = {}
        self._total: Sums = {}

    def update(self, values: Mapping[str, Scalar], size: int = 1) -> None:
        """Add the values of one step.

        Args:
            values: Name → a number or a tensor with one element, on any device. Anything else is skipped.
            size: Their weight: the number of samples that they are the mean of.
        """
        pending = self._pending
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            elif not isinstance(value, (int, float)):
                continue
            if name in pending:
                pending[name].append((value, size))
            else:
                pending[name] = [(value, size)]

    def flush(self) -> dict[str, float]:
        """Return the means since the last flush, over all ranks, and start a new window. Collective."""
        self._fold()
        means = _means(self._window)
        self._window = {}
        return means

    def summary(self) -> dict[str, float]:
        """Return the means since the last reset, over all ranks. Collective."""
        self._fold()
        return _means(self._total)

    def reset(self) -> None:
        """Forget all values."""
        self._pending, self._window, self._total = {}, {}, {}

    def state_dict(self) -> dict:
        """Return the sums of each rank as plain numbers. Collective."""
        self._fold()
        return dict(enumerate(gather_data({"window": dict(self._window), "total": dict(self._total)})))

    def load_state_dict(self, state: dict) -> None:
        """Resume from saved sums; if the number of ranks has changed, rank 0 takes all of them."""
        self.reset()
        mine = [get_data_rank()] if len(state) == get_data_size() else list(state) if get_rank() == 0 else []
        for rank in mine:
            for sums, saved in ((self._window, state[rank]["window"]), (self._total, state[rank]["total"])):
                _add(sums, saved)

    def _fold(self) -> None:
        """Move the pending values to the host, one transfer per name, and add them to both windows."""
        for name, entries in self._pending.items():
            values, sizes = zip(*entries, strict=True)
            tensors = [value for value in values if isinstance(value, torch.Tensor)]
            if all(tensor.is_cpu for tensor in tensors):
                values = [value.item() if isinstance(value, torch.Tensor) else value for value in values]
            else:
                values = torch.stack([torch.as_tensor(value).reshape(()) for value in values]).tolist()
            for sums in (self._window, self._total):
                total, weight = sums.get(name, (0.0, 0.0))
                # One after the other, so that the last digit does not depend on how often this was called.
                for value, size in zip(values, sizes, strict=True):
                    total += value * size
                    weight += size
                sums[name] = (total, weight)
        self._pending = {}


def _add(sums: Sums, others: Sums) -> None:
    for name, (total, weight) in others.items():
        old_total, old_weight = sums.get(name, (0.0, 0.0))
        sums[name] = old_total + total, old_weight + weight


def _means(sums: Sums) -> dict[str, float]:
    """Return the means over all ranks, without those that have no weight."""
    totals: Sums = {}
    for one in gather_data(sums):
        _add(totals, one)
    return {name: total / weight for name, (total, weight) in totals.items() if weight}
