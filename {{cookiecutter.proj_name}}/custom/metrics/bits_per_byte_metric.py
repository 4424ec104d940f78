"""How many bits the model needs to write down each byte of a text."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from common import METRIC_REGISTRY, MeanMetric
from common.run.distributed import gather_data


@METRIC_REGISTRY.register()
class BitsPerByte(MeanMetric):
    """The cross-entropy of all tokens, in bits, divided by the length of their text in bytes: whatever the tokens are.

    Reads ``output_dict["logits"]`` (batch, time, tokens), ``data_dict["target"]`` (batch, time), int64, with -100 where
    nothing is predicted, and ``data_dict["bytes"]`` (batch,), the length of the text of each block.
    """

    higher_is_better = False

    def measure(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return the value of each block, (batch,)."""
        logits, target = output_dict["logits"], data_dict["target"]
        nats = functional.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none")
        return nats.view_as(target).sum(1) / math.log(2) / data_dict["bytes"]

    def update(self, output_dict: dict, data_dict: dict) -> None:
        """Add a batch; its sums of bits and bytes stay on the device. The last block of a set is shorter."""
        size = data_dict["bytes"]
        self._sums.append(torch.stack([(self.measure(output_dict, data_dict) * size).sum(), size.sum()]))

    def compute(self) -> float:
        """Return the value over all batches of all ranks; NaN for an empty set. Collective."""
        local = torch.stack(self._sums).cpu().double().sum(0).tolist() if self._sums else [0.0, 0.0]
        ranks = gather_data(local)
        size = sum(one[1] for one in ranks)
        return sum(one[0] for one in ranks) / size if size else float("nan")
