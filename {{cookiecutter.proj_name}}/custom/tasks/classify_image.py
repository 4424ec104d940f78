"""A picture → its class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from common import open_room
from common.deploy.task import TASK_REGISTRY, About, Task, read_picture


@TASK_REGISTRY.register()
class ClassifyImage(Task):
    """Tells the class of a picture, and how sure the model is of it.

    Args:
        about: What the model's file says of itself.
        mode: ``RGB``, or ``L`` for gray.
        size: Pixels a side, to which a picture is resized. None: it keeps its size.
        crop: Whether it is cropped and resized as by ``ImageFolder``, to ``size`` or else to that of ``dataset.eval``.
        unit_range: Whether the data set gives pictures as floats in [0, 1], rather than as bytes.
    """

    tag = "image-classification"

    def __init__(
        self, about: About, mode: str = "RGB", size: int | None = None, crop: bool = False, unit_range: bool = False
    ):
        super().__init__(about)
        self.mode, self.size, self.unit_range = mode, size, unit_range
        self.reading = open_room("images.reading", "task.crop") if crop else None
        if crop and size is None:
            self.size = about.config["dataset"]["eval"]["size"]

    def read(self, source: Any) -> dict[str, Any]:
        """Return ``{"image": (channels, H, W)}``."""
        is_file = not isinstance(source, np.ndarray | torch.Tensor)
        read = self.reading.read_image if self.reading and is_file else read_picture
        image = read(source, self.mode, self.size)
        return {"image": image / 255 if self.unit_range and image.dtype == torch.uint8 else image}

    def answer(self, data_dict: dict[str, Any], output_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the likeliest class with its probability, and the probabilities of all classes."""
        probabilities = output_dict["logits"].softmax(dim=0, dtype=torch.float32).tolist()
        confidence = max(probabilities)
        guess = probabilities.index(confidence)
        names = self.about.class_names(len(probabilities))
        return {
            "guess": guess,
            "class": names[guess],
            "confidence": confidence,
            "probabilities": dict(zip(names, probabilities, strict=True)),
        }

    def describe(self, answer: dict[str, Any]) -> str:
        """Return such as ``7 (99.8 %)``."""
        return f"{answer['class']} ({answer['confidence']:.1%})"
