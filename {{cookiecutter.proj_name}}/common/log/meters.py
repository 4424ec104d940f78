"""Averages that stay on the device until somebody reads them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from common.run.distributed import gather_data, get_data_rank, get_data_size, get_rank

Scalar = float | torch.Tensor


class Meters:
    """Sample-weighted means of named scalars over two windows: since the last ``flush``, and since the last ``reset``.

    ``update`` only keeps references, so a step costs no synchronisation with the device; the sums over time and over
    the ranks are taken in ``flush`` and ``summary``.
    """

    def __init__(self):
        self._pending: dict[str, list[tuple[Scalar, int]]] = {}
        self._window: dict[str, tuple[float, float]] = {}
        self._total: dict[str, tuple[float, float]] = {}

    def update(self, values: Mapping[str, Scalar], size: int = 1) -> None:
        """Note one step's values.

        Args:
            values: Name → a number or a tensor with one element, on any device. Other items (names, dicts) are not
                scalars and are passed over.
            size: Their weight: the number of samples they are the mean of.
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
        """Return the means since the last flush, over all ranks, and start the next window. Collective."""
        self._fold()
        means = _means(self._window)
        self._window = {}
        return means

    def summary(self) -> dict[str, float]:
        """Return the means since the last reset, over all ranks. Collective."""
        self._fold()
        return _means(self._total)

    def reset(self) -> None:
        """Forget everything."""
        self.__init__()

    def state_dict(self) -> dict:
        """Return each rank's sums so far as plain numbers. Collective."""
        self._fold()
        return dict(enumerate(gather_data({"window": dict(self._window), "total": dict(self._total)})))

    def load_state_dict(self, state: dict) -> None:
        """Go on from the sums of ``state_dict``; where the ranks were others, rank 0 takes all of them."""
        self.reset()
        mine = [get_data_rank()] if len(state) == get_data_size() else list(state) if get_rank() == 0 else []
        for rank in mine:
            for sums, saved in ((self._window, state[rank]["window"]), (self._total, state[rank]["total"])):
                for name, (total, weight) in saved.items():
                    old = sums.get(name, (0.0, 0.0))
                    sums[name] = (old[0] + total, old[1] + weight)

    def _fold(self) -> None:
        """Bring what is pending to the host, one transfer a name, and add it to both windows."""
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


def _means(sums: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Return the sums' means over all ranks; a rank that saw no sample of a name adds nothing to it."""
    every = gather_data(sums)
    names = dict.fromkeys(name for one in every for name in one)
    totals = {name: [sum(one.get(name, (0.0, 0.0))[i] for one in every) for i in (0, 1)] for name in names}
    return {name: total / weight for name, (total, weight) in totals.items() if weight}
