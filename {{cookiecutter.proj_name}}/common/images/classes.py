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
from common.state.file import read_plain

# What the other data sets take over from the training set, unless their sections say otherwise.
_SHARED = ("classes", "group", "shares", "seed", "size")


def classes_of(loader: DataLoader) -> list[str] | None:
    """Return ``classes`` of a loader's data set: the class names in the order of their numbers; None if it has none."""
    dataset: Any = loader.dataset
    while dataset is not None and not hasattr(dataset, "classes"):
        dataset = getattr(dataset, "dataset", None)  # of the view or the reader around it
    return dataset and list(dataset.classes)


def fit_to_data(config: Config, loader: DataLoader) -> Config:
    """Return a config in which sections that leave them open have the classes of the training set that was loaded.

    These are ``num_classes`` of models and metrics, ``names`` of the latter, and what data sets share: ``classes``,
    and ``group``, ``shares``, ``seed`` and ``size`` as in ``dataset.train``. Without class names nothing changes.
    """
    classes = classes_of(loader)
    return config if classes is None else _fill(config, {**(config.dataset.train or {}), "classes": classes})


def fit_to_checkpoint(config: Config, checkpoint: Path) -> Config:
    """Do the same by what a checkpoint tells of its training set. Raise a UserError if it is damaged or foreign."""
    settings = read_plain(checkpoint).get("continuity", {})
    found = {name: settings.get(f"dataset.train.{name}") for name in _SHARED}
    train = {name: json.loads(value) for name, value in found.items() if value is not None}
    return _fill(config, train) if train.get("classes") else config


def _fill(config: Config, train: Section) -> Config:
    """Return a config whose sections have the values that their types take and they leave open."""
    known = {"num_classes": len(train["classes"]), "names": train["classes"]}
    shared = {name: train[name] for name in _SHARED if name in train}

    def fill(section: Any, registry: Registry, values: dict[str, Any]) -> Any:
        if not isinstance(section, dict) or section.get("type") not in registry.names():
            return section  # several models by their names, or a mistake that the builder will answer
        taken = inspect.signature(registry.get(section["type"])).parameters
        return {name: value for name, value in values.items() if name in taken} | section

    sets = {name: getattr(config.dataset, name) for name in ("train", "val", "eval")}
    sets = {name: fill(section, DATASET_REGISTRY, shared) for name, section in sets.items()}
    metric = {name: fill(section, METRIC_REGISTRY, known) for name, section in config.metric.items()}
    dataset, model = replace(config.dataset, **sets), fill(config.model, MODEL_REGISTRY, known)
    return replace(config, dataset=dataset, model=model, metric=metric)
