"""A config section → model, loader, loss, metric."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Subset

from common.datasets import make_loader
from common.errors import UserError
from common.losses import LossSet
from common.metrics import MetricSet
from common.registry import DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY, import_modules
from common.schema import Config, Section

# What the engine itself offers by name; your package's folders do the same.
for _package in ("common.datasets", "common.losses", "common.metrics", "common.models"):
    import_modules(_package)


_FLAGS = {"persistent_workers": True, "drop_last": False}


def build_model(section: Section, where: str = "model") -> nn.Module:
    """Build a model from its section.

    Raises:
        UserError: No or an unknown ``type``, or arguments that do not fit.
    """
    return MODEL_REGISTRY.build(section, where)


def build_loader(
    config: Config, split: str, pin_memory: bool = False, max_samples: int | None = None
) -> DataLoader | None:
    """Build a data set and its loader from ``dataset.<split>``; None where there is no ``dataset.val``.

    Args:
        config: The whole config.
        split: ``train`` is shuffled anew each epoch; ``val`` and ``eval`` show each sample once, in order.
        pin_memory: Whether batches go to a GPU.
        max_samples: Use only the first so many samples. None: all.

    Raises:
        UserError: No or an unknown ``type``, arguments that do not fit, missing data, or an empty set.
    """
    where, section = f"dataset.{split}", getattr(config.dataset, split)
    if section is None:
        if split == "val":
            return None
        raise UserError(f"{where}: expected a section with a 'type', found nothing")
    section = dict(section)
    batch_size, worker = section.pop("batch_size", config.batch_size), section.pop("worker", config.worker)
    flags = {name: section.pop(name, default) for name, default in _FLAGS.items()}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{where}.{name}: expected true or false, found {value!r}")
    for name, value, least in (("batch_size", batch_size, 1), ("worker", worker, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{where}.{name}: expected a whole number of at least {least}, found {value!r}")
    dataset = DATASET_REGISTRY.build(section, where, data_dir=config.dir.data_dir)
    if len(dataset) == 0:
        raise UserError(f"{where}: {section['type']} found no samples in {config.dir.data_dir}")
    if max_samples is not None:
        dataset = Subset(dataset, range(min(max_samples, len(dataset))))
    loader = make_loader(
        dataset,
        batch_size,
        worker,
        training=split == "train",
        seed=config.trainer.seed,
        pin_memory=pin_memory,
        **flags,
        where=where,
        replace=config.dataset.bad_sample == "replace",
        limit=config.dataset.bad_sample_limit,
    )
    if len(loader) == 0:
        raise UserError(f"{where}.drop_last: {len(dataset)} samples make no full batch")
    return loader


def build_loss(section: Section) -> LossSet:
    """Build the loss terms of ``loss``: ``{name: {type, weight (1), input_name (none), ...arguments}}``.

    Raises:
        UserError: No terms, an unknown ``type``, or arguments that do not fit.
    """
    if not section:
        raise UserError("loss: expected at least one term, such as {ce: {type: CrossEntropyLoss, ...}}")
    terms, weights, input_names = {}, {}, {}
    for name, keys in section.items():
        where, keys = f"loss.{name}", as_section(f"loss.{name}", keys)
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


def as_section(where: str, value: Any) -> Section:
    """Return a copy of a section, or raise a UserError if it is none."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a section with a 'type', found {value!r}")
    return dict(value)
