"""A config section → model, loader, loss, metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from common.config.errors import UserError
from common.config.registry import DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from common.config.rooms import open_room
from common.config.schema import Config, Section
from common.data import View, draw_rows, make_loader
from common.log.metric import MetricSet
from common.optim.loss import LossSet


def build_model(section: Section, where: str = "model") -> nn.Module:
    """Build a model from its section.

    Raises:
        UserError: No or an unknown ``type``, or arguments that do not fit.
    """
    return MODEL_REGISTRY.build(section, where)


# What a data set's section may hold beside the arguments of its class: what is expected, in words and as a check.
_LOADER_KEYS = {
    "batch_size": ("a whole number of at least 1", lambda value: type(value) is int and value >= 1),
    "worker": ("a whole number of at least 0", lambda value: type(value) is int and value >= 0),
    "persistent_workers": ("true or false", lambda value: type(value) is bool),
    "drop_last": ("true or false", lambda value: type(value) is bool),
    "sample_rate": (
        "a share above 0.0 up to 1.0, or a number of samples from 1",
        lambda value: (type(value) is float and 0 < value <= 1) or (type(value) is int and value >= 1),
    ),
}


def build_loader(
    config: Config, split: str, pin_memory: bool = False, max_samples: int | None = None
) -> DataLoader | None:
    """Build a data set and its loader from ``dataset.<split>``; None if there is no ``dataset.val``.

    Args:
        config: The whole config.
        split: ``train`` is shuffled anew each epoch; ``val`` and ``eval`` show each sample once, in order.
        pin_memory: Whether batches go to a GPU.
        max_samples: Use only the first so many samples. None: all.

    Raises:
        UserError: No or an unknown ``type``, arguments that do not fit, missing data, an empty set, or a missing room.
    """
    where, section = f"dataset.{split}", getattr(config.dataset, split)
    if section is None and split == "val":
        return None
    section = _copy(section, where)
    options = {name: _take(section, name, where) for name in _LOADER_KEYS if name in section}
    transforms = _take_pipeline(section, "transforms", where)
    batch_transforms = _take_pipeline(section, "batch_transforms", where)
    dataset = DATASET_REGISTRY.build(section, where, data_dir=config.dir.data_dir)
    if len(dataset) == 0:
        raise UserError(f"{where}: {section['type']} found no samples in {config.dir.data_dir}")
    rows = _choose_rows(len(dataset), options.pop("sample_rate", None), max_samples, config.trainer.seed, where)
    loader = make_loader(
        View(dataset, rows, transforms) if transforms or rows else dataset,
        options.pop("batch_size", config.batch_size),
        options.pop("worker", config.worker),
        training=split == "train",
        seed=config.trainer.seed,
        pin_memory=pin_memory,
        **options,
        transform_batch=batch_transforms and batch_transforms.on_batch,
        where=where,
        replace=config.dataset.bad_sample == "replace",
        limit=config.dataset.bad_sample_limit,
    )
    if len(loader) == 0:
        raise UserError(f"{where}.drop_last: {len(loader.dataset)} samples make no full batch")
    return loader


def _take(section: Section, name: str, where: str) -> Any:
    """Take one of the loader's own keys out of a data set's section."""
    value, (words, fits) = section.pop(name), _LOADER_KEYS[name]
    if not fits(value):
        raise UserError(f"{where}.{name}: expected {words}, found {value!r}")
    return value


def _take_pipeline(section: Section, name: str, where: str) -> Any:
    """Take a list of transforms out of a data set's section; return its ``Pipeline``, or None if there is none."""
    sections, key = section.pop(name, None), f"{where}.{name}"
    return None if sections in (None, []) else open_room("vision.pipeline", key).Pipeline(sections, key)


def _choose_rows(
    length: int, rate: float | int | None, max_samples: int | None, seed: int, where: str
) -> Sequence[int] | None:
    """Return which samples of a set are used; None for all of them."""
    rows = range(length) if rate is None else draw_rows(length, rate, seed)
    if not rows:
        raise UserError(f"{where}.sample_rate: {rate} of {length:,} samples is not one")
    return None if len(rows[:max_samples]) == length else rows[:max_samples]


def build_loss(section: Section) -> LossSet:
    """Build the loss terms of ``loss``: ``{name: {type, weight (1), input_name (none), ...arguments}}``.

    Raises:
        UserError: No terms, an unknown ``type``, or arguments that do not fit.
    """
    if not section:
        raise UserError("loss: expected at least one term, such as {ce: {type: CrossEntropyLoss, ...}}")
    terms, weights, input_names = {}, {}, {}
    for name, keys in section.items():
        where = f"loss.{name}"
        keys = _copy(keys, where)
        weights[name] = keys.pop("weight", 1.0)
        if not isinstance(weights[name], (int, float)):
            raise UserError(f"{where}.weight: expected a number, found {weights[name]!r}")
        if "input_name" in keys:
            input_names[name] = keys.pop("input_name")
        terms[name] = LOSS_REGISTRY.build(keys, where)
    return LossSet(terms, weights, input_names)


def build_metric(section: Section) -> MetricSet:
    """Build the metrics of ``metric``: ``{name: {type, ...arguments}}``.

    Raises:
        UserError: An unknown ``type``, or arguments that do not fit.
    """
    return MetricSet({name: METRIC_REGISTRY.build(keys, f"metric.{name}") for name, keys in section.items()})


def _copy(section: Any, where: str) -> Section:
    """Return a copy of a section, or raise a UserError if it is none."""
    if not isinstance(section, dict):
        raise UserError(f"{where}: expected a section with a 'type', found {section!r}")
    return dict(section)
