"""Named loss terms, each with its weight, and their sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from common.errors import UserError, nearest


class LossSet(nn.Module):
    """All loss terms of a config at once.

    Args:
        terms: Name → module. Without input names it is called with ``(output_dict, data_dict)``.
        weights: Name → weight.
        input_names: Name → keys looked up in ``output_dict``, then ``data_dict``, and handed over one after another:
            so any loss of torch.nn can be a term.
    """

    def __init__(
        self, terms: dict[str, nn.Module], weights: dict[str, float], input_names: dict[str, list[str]] | None = None
    ):
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self._weights, self._input_names = weights, input_names or {}

    def forward(self, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> dict[str, Any]:
        """Return ``{"names": [...], each term's weighted value, "sum": their sum}``, scalars on the outputs' device.

        Raises:
            UserError: An input name is in neither dict.
        """
        result: dict[str, Any] = {"names": list(self.terms)}
        total: torch.Tensor | float = 0.0
        for name, term in self.terms.items():
            keys = self._input_names.get(name)
            inputs = (output_dict, data_dict) if keys is None else [pick(k, name, output_dict, data_dict) for k in keys]
            result[name] = term(*inputs) * self._weights[name]
            total = total + result[name]
        result["sum"] = total
        return result


def pick(key: str, term: str, output_dict: dict[str, Any], data_dict: dict[str, Any]) -> Any:
    """Return what lies under a key in the outputs, or else in the data."""
    for values in (output_dict, data_dict):
        if key in values:
            return values[key]
    known = {*output_dict, *data_dict}
    raise UserError(f"loss.{term}.input_name: '{key}' is neither an output nor in the batch, {nearest(key, known)}")
