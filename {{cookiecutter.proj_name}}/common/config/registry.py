"""Names in a config file → classes in your code."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from common.config.errors import UserError, nearest

# The types of a config's plain values, and what each accepts; True is no number here.
_PLAIN = {int: (int,), float: (float, int), str: (str,), bool: (bool,)}


class Registry:
    """Classes and functions by name.

    Register with a decorator, ``@MODEL_REGISTRY.register()``; build from a config section with ``build``. A name that
    is not registered is looked up in ``fallback``, a module of torch's, so that what torch names needs no
    registration.

    Args:
        kind: What the registry holds, for messages: ``"model"``.
        fallback: Module whose public classes are known by their own names, imported at the first look-up.
    """

    def __init__(self, kind: str, fallback: str | None = None):
        self.kind = kind
        self._fallback = fallback
        self._classes: dict[str, Callable] = {}

    def register(self, name: str | None = None) -> Callable:
        """Return a decorator that registers a class or function under ``name`` (default: its own name).

        Raises:
            ValueError: The name is taken by another class.
        """

        def decorate(cls):
            key = name or cls.__name__
            if key in self._classes:
                raise ValueError(f"two classes are registered as {self.kind} '{key}': {self._classes[key]} and {cls}")
            self._classes[key] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """Return every name that ``get`` knows, sorted."""
        return sorted({*self._fallback_classes(), *self._classes})

    def get(self, name: str, where: str = "") -> Callable:
        """Return the class called ``name``.

        Args:
            name: A registered name, or that of a class in the fallback module.
            where: The config key that asked, for the message.

        Raises:
            UserError: No such name; the message gives the nearest, and all that are known.
        """
        if name in self._classes:
            return self._classes[name]
        theirs = self._fallback_classes()
        if name in theirs:
            return theirs[name]
        hint = nearest(name, self.names())
        hint = hint if hint.startswith("known") else f"{hint} Known: {', '.join(self.names())}"
        raise UserError(f"{where or self.kind}: unknown {self.kind} '{name}', {hint}")

    def build(self, section: dict[str, Any], where: str, *args: Any, **extra: Any) -> Any:
        """Call the class that ``section["type"]`` names with the section's other keys.

        Args:
            section: ``{"type": name, ...arguments}``; left unchanged.
            where: The section's place in the config, for messages: ``"dataset.train"``.
            *args: Positional arguments that go in front.
            **extra: Further arguments, which the config cannot give.

        Raises:
            UserError: No ``type``, an unknown one, arguments that do not fit its signature, or a value that it refuses
                with a ValueError.
        """
        if not isinstance(section, dict) or not isinstance(section.get("type"), str):
            raise UserError(f"{where}: expected a section with a 'type', found {section!r}")
        keys = {key: value for key, value in section.items() if key != "type"}
        cls = self.get(section["type"], f"{where}.type")
        check_arguments(cls, where, args, {**keys, **extra})
        try:
            return cls(*args, **keys, **extra)
        except ValueError as error:
            raise UserError(f"{where}: {section['type']}: {error}") from error

    def _fallback_classes(self) -> dict[str, Callable]:
        if self._fallback is None:
            return {}
        classes = inspect.getmembers(importlib.import_module(self._fallback), inspect.isclass)
        return {name: cls for name, cls in classes if name[0].isupper() and cls.__module__.startswith(self._fallback)}


def check_arguments(cls: Callable, where: str, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise a UserError that shows the signature of ``cls`` if these arguments do not fit its names and plain types."""
    signature = _signature(cls)
    try:
        signature.bind(*args, **kwargs)
        _check_types(signature, kwargs)
    except TypeError as error:
        shown = ", ".join(str(parameter) for parameter in list(signature.parameters.values())[len(args) :])
        raise UserError(f"{where}: {error}; the signature is {cls.__name__}({shown})") from None


def _signature(cls: Callable) -> inspect.Signature:
    """Return the signature with its annotations as types, where their names are known."""
    try:
        return inspect.signature(cls, eval_str=True)
    except NameError:
        return inspect.signature(cls)


def _check_types(signature: inspect.Signature, kwargs: dict[str, Any]) -> None:
    """Raise a TypeError for a value that is not of its parameter's type, where that is a number, text or a boolean."""
    for name, parameter in signature.parameters.items():
        fitting = _PLAIN.get(parameter.annotation) if isinstance(parameter.annotation, type) else None
        if fitting and name in kwargs and type(kwargs[name]) not in fitting:
            raise TypeError(f"'{name}' must be of type {parameter.annotation.__name__}, found {kwargs[name]!r}")


def import_modules(package: str) -> None:
    """Import every module of a package, so that what they register is known: a new file is found by itself."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


MODEL_REGISTRY = Registry("model")
DATASET_REGISTRY = Registry("data set")
LOSS_REGISTRY = Registry("loss", fallback="torch.nn.modules.loss")
METRIC_REGISTRY = Registry("metric")
TRANSFORM_REGISTRY = Registry("transform", fallback="kornia.augmentation")
