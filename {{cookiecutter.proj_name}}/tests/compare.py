"""What two runs left behind, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.state.file import read_checkpoint

_CLOCK = {"time", "iterations_per_second", "data_wait"}  # what a clock says is another in every run


def differences(expected: Path, found: Path) -> Iterator[str]:
    """Yield a line for each difference between two experiments' checkpoints, metrics and TensorBoard events."""
    names = [{path.name for path in (folder / "checkpoints").iterdir()} for folder in (expected, found)]
    yield from (f"checkpoints/{name}: in one only" for name in sorted(names[0] ^ names[1]))
    states = [read_checkpoint(folder / "checkpoints" / "final.pt") for folder in (expected, found)]
    for state in states:
        del state["monitor"]  # the names of event files
        state.pop("config", None)  # the name of the run
    yield from _differ(*states, "final.pt")
    yield from _differ(*map(metrics_of, (expected, found)), "metrics.jsonl")
    yield from _differ(*map(scalars_of, (expected, found)), "event")
    yield from _differ(*map(records_of, (expected, found)), "event")


def metrics_of(folder: Path) -> list[dict]:
    """Return the lines of ``metrics.jsonl`` without what a clock says."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in _CLOCK} for line in lines]


def scalars_of(folder: Path) -> dict[str, list]:
    """Return TensorBoard's scalars, step by step, as TensorBoard's own reader shows them."""
    events = EventAccumulator(str(folder / "event"), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in sorted(events.Tags()["scalars"]) if tag.split("/")[-1] not in _CLOCK]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def records_of(folder: Path) -> dict[str, list]:
    """Return what TensorBoard's own reader shows beside scalars, step by step: texts, histograms, pictures, sounds."""
    kinds = ("tensors", "histograms", "images", "audio")
    events = EventAccumulator(str(folder / "event"), size_guidance=dict.fromkeys(kinds, 0)).Reload()
    return {
        f"{kind}/{tag}": [vars(event) | {"wall_time": None} for event in getattr(events, kind.title())(tag)]
        for kind in kinds
        for tag in sorted(events.Tags()[kind])
    }


def _differ(expected: Any, found: Any, where: str) -> Iterator[str]:
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        if expected.dtype != found.dtype or not torch.equal(expected, found):
            yield f"{where}: tensors differ"
    elif isinstance(expected, dict) and isinstance(found, dict):
        for key in {**expected, **found}:
            if key not in expected or key not in found:
                yield f"{where}/{key}: in one only"
            else:
                yield from _differ(expected[key], found[key], f"{where}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for i, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differ(one, other, f"{where}/{i}")
    elif repr(expected) != repr(found):  # as text, for a NaN is not equal to itself
        yield f"{where}: expected {repr(expected)[:80]}, found {repr(found)[:80]}"
