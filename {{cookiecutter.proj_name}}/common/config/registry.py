"""Names in a config file → classes in your code, or in the rooms: packages of ``common`` that a project may lack."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from common.config.errors import UserError, closest, one_line

# The types of a config's plain values, and what each accepts; True is no number here.
_PLAIN = {int: (int,), float: (float, int), str: (str,), bool: (bool,)}
# What the rooms register, by the kind of the registry: each name with the module that registers it on import.
OFFERED = {
    "data set": {"ImageFolder": "images.folder"},
    "model": {"MLP": "vision.mlp", "ResNet": "vision.resnet"},
    "loss": {"DiceLoss": "measures.dice_loss", "FocalLoss": "measures.focal_loss"},
    "collate function": {"Pad": "loading.pad"},
    "metric": {
        "ConfusionMatrix": "measures.confusion_matrix",
        "Dice": "measures.overlap",
        "F1": "measures.f1",
        "IoU": "measures.overlap",
        "PSNR": "measures.psnr",
    },
    "transform": {"RandomColorJitter": "vision.color", "RandomFlip": "vision.geometry", "Resize": "vision.geometry"},
}


def has_room(name: str) -> bool:
    """Return whether this project has a room; a folder that holds no more than a leftover cache counts as missing."""
    spec = find_spec(f"common.{name.partition('.')[0]}")
    return spec is not None and spec.has_location


def find_room(name: str) -> Any:
    """Return the module ``common.<name>``, such as ``vision`` or ``sharding.files``; None if the room is missing."""
    return import_module(f"common.{name}") if has_room(name) else None


def open_room(name: str, key: str) -> Any:
    """Return the module ``common.<name>``; raise a UserError with the config key that needs it if it is missing."""
    if not has_room(name):
        missing = "which this project was rendered without; to add it, copy that folder from the template"
        raise UserError(f"{key}: needs the room common/{name.partition('.')[0]}, {missing}")
    return import_module(f"common.{name}")


class Registry:
    """Classes and functions by name: registered with ``@MODEL_REGISTRY.register()``, built from a config section.

    Args:
        kind: What the registry holds, for messages: ``"model"``.
        fallback: Module of another library whose public classes are known by their own names, without registration.
        offered: What rooms register, and the module of each name; imported when a name is asked for.
    """

    def __init__(self, kind: str, fallback: str | None = None, offered: Mapping[str, str] | None = None):
        self.kind = kind
        self._fallback, self._offered = fallback, offered or {}
        self._classes: dict[str, Callable] = {}

    def register(self, name: str | None = None) -> Callable:
        """Return a decorator that registers a class or function under ``name`` (default: its own); a name is unique."""

        def decorate(cls):
            key = name or cls.__name__
            other = self._classes.get(key) or self._offers().get(key)
            if other not in (None, cls.__module__):
                raise ValueError(f"two classes are registered as {self.kind} '{key}': {other} and {cls}")
            self._classes[key] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """Return every name that ``get`` knows, sorted."""
        return sorted({*self._fallback_classes(), *self._classes, *self._offers()})

    def get(self, name: str, where: str = "") -> Callable:
        """Return the class called ``name``, or raise a UserError that begins with the config key ``where``."""
        where = where or self.kind
        if name not in self._classes and name in self._offered:
            open_room(self._offered[name], f"{where}: {name}")
        known = self._classes if name in self._classes else self._fallback_classes()
        if name in known:
            return known[name]
        match = closest(name, self.names())
        hint = f"did you mean '{match}'? Known" if match else "known"
        raise UserError(f"{where}: unknown {self.kind} '{name}', {hint}: {', '.join(self.names()) or 'none'}")

    def build(self, section: dict[str, Any], where: str, *args: Any, **extra: Any) -> Any:
        """Call the class that ``section["type"]`` names with the section's other keys, ``args`` and ``extra``.

        Raise a UserError that begins with ``where``, the section's key, if the type is unknown, if the arguments do not
        fit its signature, or if it fails with a ValueError, an OverflowError or an error of torch or of the memory.
        """
        if not isinstance(section, dict) or not isinstance(section.get("type"), str):
            raise UserError(f"{where}: expected a section with a 'type', found {section!r}")
        keys = {key: value for key, value in section.items() if key != "type"}
        cls = self.get(section["type"], f"{where}.type")
        _check_arguments(cls, where, args, {**keys, **extra})
        try:
            return cls(*args, **keys, **extra)
        except (ValueError, OverflowError, RuntimeError, MemoryError) as error:
            raise UserError(f"{where}: {section['type']}: {one_line(error, 500)}") from error

    def _offers(self) -> dict[str, str]:
        """Return the names that the rooms of this project register, each with its module."""
        return {name: f"common.{module}" for name, module in self._offered.items() if has_room(module)}

    def _fallback_classes(self) -> dict[str, Callable]:
        if self._fallback is None:
            return {}
        classes = inspect.getmembers(import_module(self._fallback), inspect.isclass)
        return {name: cls for name, cls in classes if name[0].isupper() and cls.__module__.startswith(self._fallback)}


def _check_arguments(cls: Callable, where: str, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise a UserError that shows the signature of ``cls`` if the arguments do not fit its names and plain types."""
    try:
        signature = inspect.signature(cls, eval_str=True)
    except NameError:  # an annotation that only type checkers can resolve
        signature = inspect.signature(cls)
    try:
        signature.bind(*args, **kwargs)
        for name, parameter in signature.parameters.items():
            fitting = _PLAIN.get(parameter.annotation) if isinstance(parameter.annotation, type) else None
            value = kwargs.get(name)
            if fitting and name in kwargs and (type(value) not in fitting or value != value):  # NaN is no number
                raise TypeError(f"'{name}' must be of type {parameter.annotation.__name__}, found {value!r}")
    except TypeError as error:
        shown = ", ".join(str(parameter) for parameter in list(signature.parameters.values())[len(args) :])
        raise UserError(f"{where}: {error}; the signature is {cls.__name__}({shown})") from None


def import_modules(package: str) -> None:
    """Import every module of a package, so that what it registers is known: a new file is found by itself."""
    for module in pkgutil.iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


MODEL_REGISTRY = Registry("model", offered=OFFERED["model"])
DATASET_REGISTRY = Registry("data set", offered=OFFERED["data set"])
LOSS_REGISTRY = Registry("loss", "torch.nn.modules.loss", OFFERED["loss"])
METRIC_REGISTRY = Registry("metric", offered=OFFERED["metric"])
COLLATE_REGISTRY = Registry("collate function", offered=OFFERED["collate function"])
TRAINER_REGISTRY, TESTER_REGISTRY = Registry("trainer"), Registry("tester")
TRANSFORM_REGISTRY = Registry("transform", "kornia.augmentation", OFFERED["transform"])
