"""What a model is given and what it answers, in terms of files and plain values."""

from __future__ import annotations

import io
import json
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from common.config.registry import Registry

TASK_REGISTRY = Registry("task")
METADATA = "about"  # its name in an exported file
Source = Any  # a Path, an open binary file, text, or an array


@dataclass(frozen=True)
class About:
    """What a model's file says of itself."""

    config: dict[str, Any]
    """The config of its run, as a plain dict; secrets are hidden."""
    classes: list[str] | None = None
    """The names of its classes, if its data set has such."""
    engine: str | None = None
    """The version of the engine that wrote it."""
    format: int = 1
    """The version of the file's layout."""

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata of an exported file."""
        return {METADATA: json.dumps(asdict(self))}

    def class_names(self, count: int) -> list[str]:
        """Return the names of so many classes; a class without one is named by its number."""
        known = (self.classes or [])[:count]
        return known + [str(number) for number in range(len(known), count)]


class Task(metaclass=ABCMeta):
    """What a model is given and what it answers.

    A subclass, registered by a file in the folder ``tasks`` of your package, is chosen by the config's section
    ``task: {type: ..., ...arguments}``.

    Args:
        about: What the model's file says of itself.
    """

    accepts = "image"
    """What people give: ``image``, a picture file, or ``text``."""
    tag = ""
    """The name of such tasks on model hubs, such as ``image-classification``."""

    def __init__(self, about: About):
        self.about = about

    @abstractmethod
    def read(self, source: Source) -> dict[str, Any]:
        """Return the sample that the evaluation's data set would give, before its transforms.

        Args:
            source: A path, an open binary file, text (for a task that accepts text), or an array as in such a sample.
        """

    def forward(self, model: Callable[..., Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Return the model's output for a batch, as the tester's ``test_step`` does; ``model`` may be exported."""
        return {"logits": model(batch["image"])}

    @abstractmethod
    def answer(self, data_dict: dict[str, Any], output_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the answer for one sample as plain values; ``bytes`` are a PNG file.

        Args:
            data_dict: The sample, as the model was given it.
            output_dict: The model's output for it, on the CPU.
        """

    def says(self) -> str:
        """Return the first line of the class's docstring, for people who try the model."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]

    def colors(self) -> list[tuple[int, int, int]]:
        """Return the color in which pictures show each class; two if there are no names of classes."""
        return [color_of(number) for number in range(max(2, min(256, len(self.about.classes or ()))))]

    def describe(self, answer: dict[str, Any]) -> str:
        """Return an answer as a few words, for the console."""
        return ", ".join(f"{name} {_short(value)}" for name, value in answer.items() if isinstance(value, str | float))


def read_picture(source: Source, mode: str = "RGB", size: int | None = None) -> torch.Tensor:
    """Return a picture as a data set gives it, (channels, H, W): a file's as uint8, upright; an array's as it is.

    Args:
        source: A picture file or a NumPy file (.npy), by its path or open; or an array or a tensor.
        mode: Pillow's name of the colors: ``RGB``, or ``L`` for gray.
        size: Pixels a side, to which a picture is resized. None: it keeps its size.

    Raises:
        OSError: The file cannot be read or is no picture.
        ValueError: An array without three dimensions.
    """
    if isinstance(source, Path) and source.suffix == ".npy":
        source = np.load(source, allow_pickle=False)
    if isinstance(source, np.ndarray | torch.Tensor):
        if source.ndim != 3:
            raise ValueError(f"expected an array (channels, height, width), found the shape {tuple(source.shape)}")
        return torch.as_tensor(source)
    with Image.open(source) as file:
        ImageOps.exif_transpose(file, in_place=True)
        image = file.convert(mode)
    if size is not None and image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3)
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1).contiguous()


def read_text(source: Source) -> str:
    """Return the text of a UTF-8 file, by its path or open, or a text itself."""
    if isinstance(source, str):
        return source
    return (source.read_bytes() if isinstance(source, Path) else source.read()).decode("utf-8")


def mask_picture(mask: torch.Tensor) -> bytes:
    """Return a PNG file of class numbers (H, W) up to 255: a pixel's value is its class; class 0 is transparent."""
    image, file = Image.fromarray(mask.to(torch.uint8).numpy(), "P"), io.BytesIO()
    image.putpalette([value for number in range(int(mask.max()) + 1) for value in color_of(number)])
    image.save(file, "PNG", transparency=0)
    return file.getvalue()


def color_of(number: int) -> tuple[int, int, int]:
    """Return the color in which pictures show a class: class 0 is black, neighbors are distinct."""
    if number == 0:
        return 0, 0, 0
    hue = (0.55 + (number - 1) * 0.618034) % 1  # steps of the golden ratio
    red, green, blue = (abs((hue * 6 + shift) % 6 - 3) - 1 for shift in (0.0, 4.0, 2.0))
    return tuple(round(255 * min(max(value, 0.0), 1.0)) for value in (red, green, blue))  # type: ignore[return-value]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value
