"""A picture → its class."""

from __future__ import annotations

from typing import Any

import torch

from common.deploy.task import TASK_REGISTRY, About, Task, read_picture


@TASK_REGISTRY.register()
class ClassifyImage(Task):
    """Tells the class of a picture, and how sure the model is of it.

    Args:
        about: What the model's file says of itself.
        mode: ``RGB``, or ``L`` for gray.
        size: Pixels a side, to which a picture is resized. None: it keeps its size.
        unit_range: Whether the data set gives pictures as floats in [0, 1], rather than as bytes.
    """

    tag = "image-classification"

    def __init__(self, about: About, mode: str = "RGB", size: int | None = None, unit_range: bool = False):
        super().__init__(about)
        self.mode, self.size, self.unit_range = mode, size, unit_range

    def read(self, source: Any) -> dict[str, Any]:
        """Return ``{"image": (channels, H, W)}``."""
        image = read_picture(source, self.mode, self.size)
        return {"image": image / 255 if self.unit_range and image.dtype == torch.uint8 else image}

    def answer(self, data_dict: dict[str, Any], output_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the likeliest class with its probability, and the probabilities of all classes."""
        probabilities = output_dict["logits"].float().softmax(dim=0)
        guess = int(probabilities.argmax())
        names = map(self.about.class_name, range(len(probabilities)))
        return {
            "guess": guess,
            "class": self.about.class_name(guess),
            "confidence": float(probabilities[guess]),
            "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
        }

    def describe(self, answer: dict[str, Any]) -> str:
        """Return such as ``7 (99.8 %)``."""
        return f"{answer['class']} ({answer['confidence']:.1%})"
