"""Samples of unequal length in one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from common.config.errors import UserError
from common.config.registry import COLLATE_REGISTRY
from common.data.dataset import collate


@COLLATE_REGISTRY.register()
class Pad:
    """Joins samples, whose tensors ``values`` are padded to the longest of the batch along their first dimension.

    A padded tensor is (batch, longest, ...); ``length``, int64 (batch,), has the lengths of the first of them.

    Args:
        values: The name of each tensor to be padded, with the value it is padded with: ``{tokens: 0, label: -100}``.
        count: Count the size of a batch, by which losses and results are weighted over batches, ranks and accumulation,
            in the elements of this tensor that differ from its padding: ``label``. None: in samples.

    Raises:
        ValueError: ``count`` is none of ``values``.
    """

    def __init__(self, values: Mapping[str, float], count: str | None = None):
        if count is not None and count not in values:
            raise ValueError(f"count: expected one of {', '.join(values)}, found {count}")
        self._values, self._count = dict(values), count
        self.size_of = self._size_of if count is not None else None

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch."""
        try:
            sequences = {name: [torch.as_tensor(sample[name]) for sample in samples] for name in self._values}
        except KeyError as error:
            raise UserError(f"collate: Pad: a sample has no {error}, found {', '.join(samples[0])}") from None
        batch = collate([{name: sample[name] for name in sample.keys() - self._values} for sample in samples])
        for name, tensors in sequences.items():
            batch.setdefault("length", torch.tensor([*map(len, tensors)]))
            batch[name] = pad_sequence(tensors, batch_first=True, padding_value=self._values[name])
        return batch

    def _size_of(self, batch: dict[str, Any]) -> int:
        """Return the elements of a batch that count."""
        return int((batch[self._count] != self._values[self._count]).sum())  # type: ignore[index]
