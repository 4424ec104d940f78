"""Class names, and how pictures were divided, on their way from the training set to all that has to know them."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from common.config.registry import DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY, Registry
from common.config.schema import Config, Section
from common.state.experiment import classes_of
from common.state.file import read_plain

# What the other data sets take over from the training set, unless their sections say otherwise.
_SHARED = ("classes", "group", "shares", "seed", "size")


def fit_to_data(config: Config, loader: DataLoader) -> Config:
    """Return a config in which sections that leave them open have the classes of the training set that was loaded.

    These are ``num_classes`` of models and metrics, ``names`` of the latter, and what data sets share: ``classes``,
    and ``group``, ``shares``, ``seed`` and ``size`` as in ``dataset.train``. Nothing changes if the class of the
    training set takes no argument ``classes``: then they are not found in the data.
    """
    train, classes = config.dataset.train or {}, classes_of(loader)
    finds_them = classes is not None and "classes" in _parameters(train, DATASET_REGISTRY)
    return _fill(config, {**train, "classes": classes}) if finds_them else config


def fit_to_checkpoint(config: Config, checkpoint: Path) -> Config:
    """Do the same by what a checkpoint tells of its training set. Raise a UserError if it is damaged or foreign."""
    settings = read_plain(checkpoint).get("continuity", {})
    found = {name: settings.get(f"dataset.train.{name}") for name in _SHARED}
    train = {name: json.loads(value) for name, value in found.items() if value is not None}
    return _fill(config, train) if train.get("classes") else config


def _parameters(section: Any, registry: Registry) -> set[str]:
    """Return the arguments of the class that a section names; none for several models, and for a mistake in it."""
    if not isinstance(section, dict) or section.get("type") not in registry.names():
        return set()
    return set(inspect.signature(registry.get(section["type"])).parameters)


def _fill(config: Config, train: Section) -> Config:
    """Return a config whose sections have the values that their types take and they leave open."""
    known = {"num_classes": len(train["classes"]), "names": train["classes"]}
    shared = {name: train[name] for name in _SHARED if name in train}

    def fill(section: Any, registry: Registry, values: dict[str, Any]) -> Any:
        taken = _parameters(section, registry)
        return {name: value for name, value in values.items() if name in taken} | section if taken else section

    sets = {name: getattr(config.dataset, name) for name in ("train", "val", "eval")}
    sets = {name: fill(section, DATASET_REGISTRY, shared) for name, section in sets.items()}
    metric = {name: fill(section, METRIC_REGISTRY, known) for name, section in config.metric.items()}
    dataset, model = replace(config.dataset, **sets), fill(config.model, MODEL_REGISTRY, known)
    return replace(config, dataset=dataset, model=model, metric=metric)
