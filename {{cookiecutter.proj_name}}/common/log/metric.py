"""What is averaged over samples and ranks: the scalars of steps, and metrics over a whole set; and what they read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.config.errors import UserError, nearest
from common.run.distributed import gather_data, get_data_rank, get_data_size, get_rank

Scalar = float | torch.Tensor
Sums = dict[str, tuple[float, float]]  # name → weighted sum, weight


class Meters:
    """Sample-weighted means of named scalars over two windows: since the last ``flush``, and since the last ``reset``.

    ``update`` only keeps references, so a step does not synchronize with the device. ``flush``, ``summary`` and
    ``state_dict`` are collective: they gather the sums of all ranks.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._pending: dict[str, list[tuple[Scalar, int]]] = defaultdict(list)
        self._window: Sums = {}
        self._total: Sums = {}

    def update(self, values: Mapping[str, Scalar], size: int = 1) -> None:
        """Add the numbers and one-element tensors, on any device, each a mean over ``size`` samples; skip all else."""
        pending = self._pending
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                value = value.detach()
            elif not isinstance(value, (int, float)):
                continue
            pending[name].append((value, size))

    def flush(self) -> dict[str, float]:
        """Return the means since the last flush, and start a new window."""
        self._fold()
        means, self._window = _means(self._window), {}
        return means

    def summary(self) -> dict[str, float]:
        """Return the means since the last reset."""
        self._fold()
        return _means(self._total)

    def state_dict(self) -> dict:
        """Return the sums of each rank as plain numbers."""
        self._fold()
        return dict(enumerate(gather_data({"window": dict(self._window), "total": dict(self._total)})))

    def load_state_dict(self, state: dict) -> None:
        """Resume from saved sums; if the number of ranks has changed, rank 0 takes all of them."""
        self.reset()
        mine = [get_data_rank()] if len(state) == get_data_size() else list(state) if get_rank() == 0 else []
        for rank in mine:
            _add(self._window, state[rank]["window"])
            _add(self._total, state[rank]["total"])

    def _fold(self) -> None:
        """Move the pending values to the host, one transfer per name, and add them to both windows."""
        for name, entries in self._pending.items():
            values, sizes = zip(*entries, strict=True)
            shapes = {tuple(v.shape) for v in values if isinstance(v, torch.Tensor) and v.numel() != 1}
            if shapes:
                raise UserError(f"a step's result '{name}': expected a single value, found one of shape {min(shapes)}")
            if any(isinstance(value, torch.Tensor) and not value.is_cpu for value in values):
                values = torch.stack([torch.as_tensor(value).reshape(()) for value in values]).tolist()
            values = [float(value) for value in values]
            for sums in (self._window, self._total):
                total, weight = sums.get(name, (0.0, 0.0))
                # One after the other, so that the last digit does not depend on how often this was called.
                for value, size in zip(values, sizes, strict=True):
                    total, weight = total + value * size, weight + size
                sums[name] = total, weight
        self._pending.clear()


def _add(sums: Sums, others: Sums) -> None:
    for name, (total, weight) in others.items():
        before = sums.get(name, (0.0, 0.0))
        sums[name] = before[0] + total, before[1] + weight


def _means(sums: Sums) -> dict[str, float]:
    """Return the means over all ranks, without those that have no weight."""
    totals: Sums = {}
    for one in gather_data(sums):
        _add(totals, one)
    return {name: total / weight for name, (total, weight) in totals.items() if weight}


class BaseMetric(ABC):
    """A metric over a whole set that counts each sample once, on all ranks together."""

    higher_is_better: bool | None = None
    """Set it in your class; None: ``checkpoint.best_larger`` has to tell where it selects the best checkpoint."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches."""

    @abstractmethod
    def update(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> None:
        """Add a batch."""

    @abstractmethod
    def compute(self) -> float:
        """Return the value over all batches since the last reset. Collective."""

    def draw(self) -> Any:
        """Return a matplotlib figure of what ``compute`` found last, or None if the number says it all."""
        return None


class MeanMetric(BaseMetric):
    """The mean over all samples of a value that each sample has, such as being right: implement ``measure``."""

    def __init__(self):
        self._sums: list[torch.Tensor] = []
        self._count = 0

    @abstractmethod
    def measure(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> torch.Tensor:
        """Return the value of each sample in the batch, (batch,), any numeric or boolean dtype."""

    def reset(self) -> None:
        """Forget all batches."""
        self._sums, self._count = [], 0

    def update(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> None:
        """Add a batch; its sum stays on the device."""
        values = self.measure(output_dict, data_dict)
        self._sums.append(values.sum())
        self._count += values.shape[0]

    def compute(self) -> float:
        """Return the mean over all samples of all ranks; NaN for an empty set. Collective."""
        local = torch.stack(self._sums).cpu().double().sum().item() if self._sums else 0.0
        sums, counts = zip(*gather_data((local, self._count)), strict=True)
        return sum(sums) / sum(counts) if sum(counts) else float("nan")


class MetricSet:
    """Named metrics, whose methods it calls together."""

    def __init__(self, metrics: Mapping[str, BaseMetric]):
        self._metrics = metrics

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self._metrics.values():
            metric.reset()

    def update(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> None:
        """Add a batch."""
        for metric in self._metrics.values():
            metric.update(output_dict, data_dict)

    def compute(self) -> dict[str, float]:
        """Return each metric's value by name. Collective."""
        return {name: metric.compute() for name, metric in self._metrics.items()}

    def directions(self) -> dict[str, bool | None]:
        """Return ``higher_is_better`` of each metric, by name."""
        return {name: getattr(metric, "higher_is_better", None) for name, metric in self._metrics.items()}

    def draw(self) -> dict[str, Any]:
        """Return the matplotlib figures of the metrics that have one, by name."""
        figures = {name: metric.draw() for name, metric in self._metrics.items()}
        return {name: figure for name, figure in figures.items() if figure is not None}

    def of_sample(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return each ``MeanMetric``'s value, a scalar, for one sample: entries have no batch dimension."""
        output, data = (
            {name: value[None] if isinstance(value, torch.Tensor) else value for name, value in sample.items()}
            for sample in (output_dict, data_dict)
        )
        means = {name: metric for name, metric in self._metrics.items() if isinstance(metric, MeanMetric)}
        return {name: metric.measure(output, data)[0].float() for name, metric in means.items()}


def pick(names: Sequence[str], where: str, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> list[Any]:
    """Return the entries of these names, from the model's output first, then from the batch.

    Raise a UserError that begins with ``where``, the config section that asks (``loss.ce``), if a name is in neither.
    """
    entries = {**data_dict, **output_dict}
    for name in names:
        if name not in entries:
            hint = nearest(name, entries)
            raise UserError(f"{where}.input_name: '{name}' is neither an output nor in the batch, {hint}")
    return [entries[name] for name in names]


def predicted_classes(logits: torch.Tensor) -> torch.Tensor:
    """Return the likeliest class, int64 (batch, ...), of logits (batch, classes, ...); binary ones have one channel."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1)


def class_numbers(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return a target as int64 (batch, ...), without the channel dimension that a binary target may have."""
    return (target[:, 0] if target.ndim == logits.ndim else target).long()
