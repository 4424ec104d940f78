"""Names in a config file → classes in your code."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from common.errors import UserError, nearest


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
        """Return every registered name, sorted."""
        return sorted(self._classes)

    def get(self, name: str, where: str = "") -> Callable:
        """Return the class called ``name``.

        Args:
            name: A registered name, or that of a class in the fallback module.
            where: The config key that asked, for the message.

        Raises:
            UserError: No such name; the message gives the nearest, or all that are known.
        """
        if name in self._classes:
            return self._classes[name]
        theirs = self._fallback_classes()
        if name in theirs:
            return theirs[name]
        raise UserError(
            f"{where or self.kind}: unknown {self.kind} '{name}', {nearest(name, {*theirs, *self._classes})}"
        )

    def build(self, section: dict[str, Any], where: str, *args: Any, **extra: Any) -> Any:
        """Call the class that ``section["type"]`` names with the section's other keys.

        Args:
            section: ``{"type": name, ...arguments}``; left unchanged.
            where: The section's place in the config, for messages: ``"dataset.train"``.
            *args: Positional arguments that go in front.
            **extra: Further arguments, which the config cannot give.

        Raises:
            UserError: No ``type``, an unknown one, or arguments that do not fit its signature.
        """
        if not isinstance(section, dict) or not isinstance(section.get("type"), str):
            raise UserError(f"{where}: expected a section with a 'type', found {section!r}")
        keys = {key: value for key, value in section.items() if key != "type"}
        cls = self.get(section["type"], f"{where}.type")
        check_arguments(cls, where, args, {**keys, **extra})
        return cls(*args, **keys, **extra)

    def _fallback_classes(self) -> dict[str, Callable]:
        if self._fallback is None:
            return {}
        module = importlib.import_module(self._fallback)
        return {name: cls for name, cls in vars(module).items() if inspect.isclass(cls) and name[0].isupper()}


def check_arguments(cls: Callable, where: str, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise a UserError that shows the signature of ``cls`` if it cannot be called with these arguments."""
    signature = inspect.signature(cls)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        shown = ", ".join(str(parameter) for parameter in list(signature.parameters.values())[len(args) :])
        raise UserError(f"{where}: {error}; the signature is {cls.__name__}({shown})") from None


def import_modules(package: str) -> None:
    """Import every module of a package, so that what they register is known: a new file is found by itself."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


MODEL_REGISTRY = Registry("model")
DATASET_REGISTRY = Registry("data set")
LOSS_REGISTRY = Registry("loss", fallback="torch.nn.modules.loss")
METRIC_REGISTRY = Registry("metric")
