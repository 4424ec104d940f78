"""Named loss terms, each with its weight, and their sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.log.metric import pick


class LossSet(nn.Module):
    """All loss terms of a config together.

    Args:
        terms: Name → module. Without input names it is called with ``(output_dict, data_dict)``.
        weights: Name → weight.
        input_names: Name → keys that are looked up in ``output_dict``, then in ``data_dict``, and passed as positional
            arguments, so that any loss of torch.nn can be a term.
    """

    def __init__(
        self, terms: dict[str, nn.Module], weights: dict[str, float], input_names: dict[str, list[str]] | None = None
    ):
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self._weights, self._input_names = weights, input_names or {}

    def forward(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> dict[str, Any]:
        """Return ``{"names": [...], each term's weighted value, "sum": their sum}``, scalars on the outputs' device."""
        result: dict[str, Any] = {"names": list(self.terms)}
        total: torch.Tensor | None = None
        for name, term in self.terms.items():
            keys, weight, inputs = self._input_names.get(name), self._weights[name], [output_dict, data_dict]
            value = term(*(inputs if keys is None else pick(keys, f"loss.{name}", output_dict, data_dict)))
            result[name] = value if weight == 1 else value * weight
            total = result[name] if total is None else total + result[name]
        result["sum"] = total
        return result
