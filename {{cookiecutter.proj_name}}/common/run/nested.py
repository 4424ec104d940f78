"""The one walk over nested dicts, lists and tuples: batches and states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def map_nested(value: Any, change: Callable[[tuple, Any], Any], path: tuple = ()) -> Any:
    """Return nested dicts, lists and tuples with each value replaced by ``change(path, value)``.

    A container is offered before its items; where ``change`` replaces it, its items are not visited.
    """
    new = change(path, value)
    if new is not value:
        return new
    if isinstance(value, dict):
        return {key: map_nested(item, change, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        mapped = [map_nested(item, change, (*path, i)) for i, item in enumerate(value)]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    return value
