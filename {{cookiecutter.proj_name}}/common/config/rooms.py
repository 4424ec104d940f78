"""The rooms: packages of ``common`` that a project may be rendered without, imported only when something needs one."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from common.config.errors import UserError

# What the rooms register, by the kind of the registry: each name with the module that registers it on import.
OFFERED = {
    "data set": {"ImageFolder": "photos.folder"},
    "model": {"MLP": "vision.mlp", "ResNet": "vision.resnet"},
    "loss": {"DiceLoss": "measures.dice_loss", "FocalLoss": "measures.focal_loss"},
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


def open_room(name: str, key: str) -> ModuleType:
    """Return the module ``common.<name>``; raise a UserError with the config key that needs it if it is missing."""
    module = find_room(name)
    if module is None:
        room = f"common/{name.partition('.')[0]}"
        missing = "which this project was rendered without; to add it, copy that folder from the template"
        raise UserError(f"{key}: needs the room {room}, {missing}")
    return module
