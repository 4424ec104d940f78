"""A config section → model, loader, loss, metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.data import IterableDataset

from common.config.errors import UserError
from common.config.load import check_value
from common.config.registry import (
    COLLATE_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    TESTER_REGISTRY,
    TRAINER_REGISTRY,
    Registry,
    open_room,
)
from common.config.schema import LOADER_KEYS, Config, Section
from common.data import make_loader
from common.data.dataset import View, draw_rows
from common.data.loader import Loader
from common.log.metric import MetricSet
from common.optim.loss import LossSet

if TYPE_CHECKING:
    from common.run.launch import Session


def build_trainer(config: Config, session: Session) -> Any:
    """Build the trainer that ``trainer.type`` names, or the only one that is registered."""
    return _choose(TRAINER_REGISTRY, config)(config, session)


def build_tester(config: Config, session: Session) -> Any:
    """Build the tester that is registered under the name of ``trainer.type``, or the only one."""
    return _choose(TESTER_REGISTRY, config)(config, session)


def _choose(registry: Registry, config: Config) -> Callable:
    """Return the class that ``trainer.type`` names; raise a UserError if there is a choice and none is made."""
    names = registry.names()
    if config.trainer.type is None and len(names) > 1:
        raise UserError(f"trainer.type: expected a name, since there are several {registry.kind}s: {', '.join(names)}")
    return registry.get(config.trainer.type or "".join(names), "trainer.type")


def build_model(section: Section, where: str = "model") -> nn.Module:
    """Build a model from its section."""
    return MODEL_REGISTRY.build(section, where)


def build_loader(config: Config, split: str, pin_memory: bool = False, max_samples: int | None = None) -> Loader | Any:
    """Build a data set and its loader from ``dataset.<split>``; None if there is no ``dataset.val``.

    ``train`` is shuffled anew each epoch, or read again and again if it is a stream; ``val`` and ``eval`` show each
    sample once, in order, and at most ``max_samples`` of them. Raise a UserError if the section does not fit, or if
    data or a room is missing.
    """
    where, section = f"dataset.{split}", getattr(config.dataset, split)
    if section is None and split == "val":
        return None
    section = _copy(section, where)
    options: dict[str, Any] = {"batch_size": config.batch_size, "worker": config.worker, "loader": config.loader}
    for name in LOADER_KEYS & section.keys():
        options[name] = check_value(LOADER_KEYS[name], section.pop(name), f"{where}.{name}")
    if options["loader"] == "thread" and not options["worker"]:
        raise UserError(f"{where}: loader thread needs worker, the number of threads, from 1")
    options |= {"training": split == "train", "seed": config.trainer.seed, "pin_memory": pin_memory, "where": where}
    transforms = _take_pipeline(section, "transforms", where)
    batch_transforms = _take_pipeline(section, "batch_transforms", where)
    options["transform_batch"] = batch_transforms and batch_transforms.on_batch
    collates = section.pop("collate", None)
    dataset = DATASET_REGISTRY.build(section, where, data_dir=config.dir.data_dir)
    if collates is not None:
        options["collate_fn"] = COLLATE_REGISTRY.build(collates, f"{where}.collate")
    elif hasattr(dataset, "collate"):
        options["collate_fn"] = dataset.collate
    if isinstance(dataset, IterableDataset):
        room = open_room("loading.stream", f"{where}.type: {section['type']} is a stream, and")
        replaces = config.dataset.bad_sample == "replace"
        return room.make_stream_loader(dataset, replaces, transforms=transforms, max_samples=max_samples, **options)
    if len(dataset) == 0:
        raise UserError(f"{where}: {section['type']} found no samples in {config.dir.data_dir}")
    rate = options.pop("sample_rate", None)
    rows = range(len(dataset)) if rate is None else draw_rows(len(dataset), rate, config.trainer.seed)
    if not rows:
        raise UserError(f"{where}.sample_rate: {rate} of {len(dataset):,} samples is not one")
    rows = rows[:max_samples]
    loader = make_loader(
        View(dataset, rows, transforms) if transforms or len(rows) < len(dataset) else dataset,
        **options,
        replace=config.dataset.bad_sample == "replace",
        limit=config.dataset.bad_sample_limit,
    )
    if len(loader) == 0:
        raise UserError(f"{where}.drop_last: {len(rows)} samples make no full batch")
    return loader


def _take_pipeline(section: Section, name: str, where: str) -> Any:
    """Take a list of transforms out of a data set's section; return its ``Pipeline``, or None if there is none."""
    sections, key = section.pop(name, None), f"{where}.{name}"
    return None if sections in (None, []) else open_room("vision.pipeline", key).Pipeline(sections, key)


def build_loss(section: Section) -> LossSet:
    """Build the loss terms of ``loss``: ``{name: {type, weight (1), input_name (none), ...arguments}}``."""
    if not section:
        raise UserError("loss: expected at least one term, such as {ce: {type: CrossEntropyLoss, ...}}")
    terms, weights, input_names = {}, {}, {}
    for name, keys in section.items():
        where = f"loss.{name}"
        if name in ("loss", "names", "sum"):
            raise UserError(f"{where}: this name is taken by the sum of all terms, choose another")
        keys = _copy(keys, where)
        weights[name] = check_value(float, keys.pop("weight", 1.0), f"{where}.weight")
        if "input_name" in keys:
            input_names[name] = check_value(list[str], keys.pop("input_name"), f"{where}.input_name")
        terms[name] = LOSS_REGISTRY.build(keys, where)
        if name not in input_names and type(terms[name]).__module__.startswith("torch."):
            raise UserError(
                f"{where}: {keys['type']} needs input_name, the tensors to compare, such as [logits, label]"
            )
    return LossSet(terms, weights, input_names)


def build_metric(section: Section) -> MetricSet:
    """Build the metrics of ``metric``: ``{name: {type, ...arguments}}``."""
    return MetricSet({name: METRIC_REGISTRY.build(keys, f"metric.{name}") for name, keys in section.items()})


def _copy(section: Any, where: str) -> Section:
    if not isinstance(section, dict):
        raise UserError(f"{where}: expected a section with a 'type', found {section!r}")
    return dict(section)
