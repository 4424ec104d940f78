"""Pictures of samples beside what a model makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch.nn import functional

from common.data.lookup import class_numbers, predicted_classes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 64  # pixels that a sample has at least


def draw_samples(data_dict: dict[str, Any], output_dict: dict[str, Any], count: int) -> dict[str, torch.Tensor]:
    """Return a picture of a batch's first samples, (3, H, W) in [0, 1], by its name; nothing for other tasks.

    ``triplets`` if the batch has a ``mask``: images, below them their truth, below that the predictions. ``guesses`` if
    it has a ``label``: images, each above a bar, green for a right guess, red for a wrong one.

    Args:
        data_dict: ``image`` (batch, 1 or 3, H, W) of any range, and ``mask`` (batch, H, W) or (batch, 1, H, W), or
            ``label`` (batch,).
        output_dict: ``logits`` (batch, classes, ...).
        count: Samples at most.
    """
    if "image" not in data_dict or "logits" not in output_dict:
        return {}
    logits = output_dict["logits"][:count].float()
    images = _enlarged(as_pictures(data_dict["image"][:count]))
    if "mask" in data_dict:
        truth = class_numbers(data_dict["mask"][:count], logits)
        classes = max(2, logits.shape[1])
        rows = [images, *(_enlarged(colour_classes(mask, classes)) for mask in (truth, predicted_classes(logits)))]
        return {"triplets": torch.cat([_in_a_row(row) for row in rows], dim=1)}
    if "label" in data_dict:
        right = predicted_classes(logits) == data_dict["label"][:count]
        bars = images.new_zeros(len(images), 3, max(2, images.shape[-1] // 10), images.shape[-1])
        bars[right, 1], bars[~right, 0] = 0.7, 0.8
        return {"guesses": _in_a_row(torch.cat([images, bars], dim=2))}
    return {}


def write_picture(image: torch.Tensor, path: Path) -> None:
    """Write a picture, (3, H, W) or (1, H, W), floating values in [0, 1] or uint8, to a PNG file."""
    pixels = image if image.dtype == torch.uint8 else (image.float().clamp(0, 1) * 255).round().byte()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()).save(path)


def as_pictures(images: torch.Tensor) -> torch.Tensor:
    """Return images (batch, 1 or 3, H, W) of any range and dtype as (batch, 3, H, W), float32 in [0, 1].

    Those that leave [0, 1], such as normalised ones, are scaled, all alike.
    """
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    low, high = images.aminmax()
    if low < 0 or high > 1:
        images = (images - low) / (high - low).clamp(min=1e-9)
    return images.expand(-1, 3, -1, -1)


def colour_classes(numbers: torch.Tensor, classes: int) -> torch.Tensor:
    """Return class numbers (batch, H, W) as colours (batch, 3, H, W) in [0, 1], class 0 black; two: black and white."""
    if classes == 2:
        return (numbers > 0).float().unsqueeze(1).expand(-1, 3, -1, -1)
    hues = torch.arange(classes - 1) * 0.618034 % 1  # the golden ratio keeps neighbours apart
    wheel = (hues[:, None] * 6 + torch.tensor([0.0, 4.0, 2.0])) % 6
    palette = torch.cat([torch.zeros(1, 3), ((wheel - 3).abs() - 1).clamp(0, 1)]).to(numbers.device)
    return palette[numbers].movedim(-1, 1)


@dataclass
class ShownSample:
    """One sample as an evaluation shows it."""

    pictures: dict[str, torch.Tensor]
    """(3, H, W) in [0, 1], by what they show; none where nobody will look at them."""
    title: str
    """What stands above them."""
    group: str = ""
    """The samples it stands with."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a table says of it, beside its results."""


def describe_sample(data_dict: dict[str, Any], output_dict: dict[str, Any], result_dict: dict[str, Any]) -> ShownSample:
    """Return what is to be said of one sample and of what a model makes of it, as yet without pictures.

    Args:
        data_dict: ``label`` () for a classification.
        output_dict: ``logits`` (classes, ...).
        result_dict: Results by name; the first stands in the title, but for a label.
    """
    if "label" not in data_dict or "mask" in data_dict or "logits" not in output_dict:
        return ShownSample({}, ", ".join(f"{name} {float(value):.2f}" for name, value in list(result_dict.items())[:1]))
    logits, label = output_dict["logits"].float(), int(data_dict["label"])
    guess = int(predicted_classes(logits[None]))
    facts = {"label": label, "guess": guess, "confidence": float(logits.softmax(dim=0)[guess])}
    if guess == label:
        return ShownSample({}, f"{guess}", "right", facts)
    return ShownSample({}, f"{guess}, is {label}", "wrong", facts)


def draw_sample(data_dict: dict[str, Any], output_dict: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return a sample's image and, if it has a mask, its truth and the prediction, each (3, H, W) in [0, 1], by name.

    They hold on to nothing of the batch. For other tasks there are none.

    Args:
        data_dict: ``image`` (1 or 3, H, W), and ``mask`` (H, W) or (1, H, W).
        output_dict: ``logits`` (classes, ...).
    """
    if "image" not in data_dict or "logits" not in output_dict:
        return {}
    pictures, logits = {"image": as_pictures(data_dict["image"][None])}, output_dict["logits"][None].float()
    if "mask" in data_dict:
        masks = {"truth": class_numbers(data_dict["mask"][None], logits), "prediction": predicted_classes(logits)}
        pictures |= {name: colour_classes(mask, max(2, logits.shape[1])) for name, mask in masks.items()}
    return {name: picture[0].clone() for name, picture in pictures.items()}


def sample_figure(rows: list[tuple[str, list[ShownSample]]]) -> Figure:
    """Return rows of samples as a page, each row with its name at the left, each sample with its title above it."""
    from matplotlib.figure import Figure

    first = next(sample for _, samples in rows for sample in samples)
    wide, across = len(first.pictures), max(len(samples) for _, samples in rows)
    height, width = first.pictures["image"].shape[1:]
    side = 1.5 if wide > 1 else 1.0
    size = side * wide * across + 0.3, (side * height / width + 0.25) * len(rows) + 0.3
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), wide * across, squeeze=False)
    for axis in grid.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for i, (name, samples) in enumerate(rows):
        grid[i, 0].set_ylabel(name)
        for sample, start in zip(samples, range(0, wide * across, wide), strict=False):
            for axis, (heading, picture) in zip(grid[i, start:], sample.pictures.items(), strict=False):
                axis.imshow(picture.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
                if wide > 1 and i == len(rows) - 1:
                    axis.set_xlabel(heading, fontsize=8)
            grid[i, start + (wide - 1) // 2].set_title(sample.title, fontsize=8)
    return figure


def _enlarged(images: torch.Tensor) -> torch.Tensor:
    """Return small images with each pixel repeated."""
    times = -(-_SIDE // max(images.shape[-2:]))
    return functional.interpolate(images, scale_factor=times) if times > 1 else images


def _in_a_row(images: torch.Tensor) -> torch.Tensor:
    """Return images (count, 3, H, W) beside each other, with black lines between."""
    return torch.cat(list(functional.pad(images, (1, 1, 1, 1))), dim=2)
