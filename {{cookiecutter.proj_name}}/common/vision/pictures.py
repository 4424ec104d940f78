"""Pictures of samples beside the model's predictions."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch.nn import functional

from common.log.console import add_log
from common.log.metric import class_numbers, predicted_classes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MIN_SIDE = 64  # smaller images are enlarged to at least so many pixels


def draw_samples(data_dict: dict[str, Any], output_dict: dict[str, Any], count: int) -> dict[str, torch.Tensor]:
    """Return a picture of a batch's first samples, (3, H, W) in [0, 1], by its name; empty for other tasks.

    ``triplets`` for a batch with a ``mask``: rows of images, true masks and predictions. ``guesses`` for one with a
    ``label``: images, each above a bar that is green for a right guess and red for a wrong one. What has other shapes
    is not drawn; the first time, a warning says so.

    Args:
        data_dict: ``image`` (batch, channels, H, W) of any range, as ``as_pictures`` takes it, and ``mask``
            (batch, H, W) or (batch, 1, H, W), or ``label`` (batch,).
        output_dict: ``logits`` (batch, classes, H, W) with a mask, (batch, classes) with a label.
        count: The maximum number of samples.
    """
    logits = output_dict.get("logits")
    if "image" not in data_dict or not isinstance(logits, torch.Tensor) or not {"mask", "label"} & data_dict.keys():
        return {}
    values = {key: data_dict[key] for key in ("image", "mask", "label") if key in data_dict}
    first = {key: value[:count] if isinstance(value, torch.Tensor) else value for key, value in values.items()}
    logits = logits[:count]
    rows = [_enlarge(row) for row in _draw(first, logits).values()]
    if not rows:
        return {}
    if "mask" in first:
        return {"triplets": torch.cat([_side_by_side(row) for row in rows], dim=1)}
    (images,), labels = rows, first["label"]
    if logits.ndim != 2 or _shape(labels) != logits.shape[:1]:
        _warn(
            f"guesses are not drawn: expected labels (batch,) and logits (batch, classes), found {_shape(labels)} "
            f"and {_shape(logits)}"
        )
        return {}
    right = predicted_classes(logits) == labels
    bars = images.new_zeros(len(images), 3, max(2, images.shape[-1] // 10), images.shape[-1])
    bars[right, 1], bars[~right, 0] = 0.7, 0.8
    return {"guesses": _side_by_side(torch.cat([images, bars], dim=2))}


def draw_sample(data_dict: dict[str, Any], output_dict: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return one sample's image and, if it has a mask, the true and the predicted one: (3, H, W) in [0, 1], by name.

    The arguments are those of ``draw_samples``, without the batch dimension; the pictures share no memory with them.
    """
    logits = output_dict.get("logits")
    if "image" not in data_dict or not isinstance(logits, torch.Tensor):
        return {}
    values = {key: data_dict[key] for key in ("image", "mask") if key in data_dict}
    batch = {key: value[None] if isinstance(value, torch.Tensor) else value for key, value in values.items()}
    return {name: picture[0].clone() for name, picture in _draw(batch, logits[None]).items()}


def _draw(batch: dict[str, Any], logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the images and, if there is a ``mask``, the true and the predicted ones: (batch, 3, H, W) in [0, 1].

    Empty, with a warning the first time, if they are no images or the masks are not of their size.
    """
    try:
        pictures = {"image": as_pictures(batch["image"])}
    except ValueError as error:
        _warn(f"images are not drawn: {error}")
        return {}
    if "mask" in batch:
        mask, (count, _, *size) = batch["mask"], batch["image"].shape
        fits = _shape(mask) in ((count, *size), (count, 1, *size))
        if not fits or logits.ndim != 4 or logits.shape[2:] != batch["image"].shape[2:]:
            _warn(
                f"masks are not drawn: expected masks (batch, H, W) or (batch, 1, H, W) and logits (batch, classes, "
                f"H, W) as large as the images {_shape(batch['image'])}, found {_shape(mask)} and {_shape(logits)}"
            )
            return {}
        masks = {"truth": class_numbers(mask, logits), "prediction": predicted_classes(logits)}
        pictures |= {name: color_classes(mask, max(2, logits.shape[1])) for name, mask in masks.items()}
    return pictures


def _shape(value: Any) -> tuple[int, ...] | str:
    """Return the shape of a tensor, or the type of what is none."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


@cache
def _warn(text: str) -> None:
    """Log a warning once."""
    add_log(text, "WARNING")


def as_pictures(images: torch.Tensor) -> torch.Tensor:
    """Return images (batch, channels, H, W) of any range and dtype as (batch, 3, H, W), float32 in [0, 1].

    One channel becomes gray, and so does the first of two; of more than three the first three are shown. If a value is
    outside [0, 1], as in normalized images, the whole batch is scaled to that range.

    Raises:
        ValueError: They are no tensor, have another number of dimensions, or no pixels.
    """
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or not images.numel():
        raise ValueError(f"expected images (batch, channels, H, W), found {_shape(images)}")
    images = images[:, : 3 if images.shape[1] >= 3 else 1]
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    low, high = images.aminmax()
    if low < 0 or high > 1:
        images = (images - low) / (high - low).clamp(min=1e-9)
    return images.expand(-1, 3, -1, -1)


def color_classes(numbers: torch.Tensor, classes: int) -> torch.Tensor:
    """Return class numbers (batch, H, W) as colors (batch, 3, H, W) in [0, 1]: class 0 black, 1 of two classes white.

    Numbers that are no class, such as those which a loss ignores, are gray.
    """
    if classes == 2:
        return (numbers > 0).float().unsqueeze(1).expand(-1, 3, -1, -1)
    hues = torch.arange(classes - 1) * 0.618034 % 1  # steps of the golden ratio keep neighboring classes distinct
    wheel = (hues[:, None] * 6 + torch.tensor([0.0, 4.0, 2.0])) % 6
    colors = ((wheel - 3).abs() - 1).clamp(0, 1)
    palette = torch.cat([torch.zeros(1, 3), colors, torch.full((1, 3), 0.5)]).to(numbers.device)
    is_class = (numbers >= 0) & (numbers < classes)
    return palette[numbers.long().where(is_class, classes)].movedim(-1, 1)


def write_picture(image: torch.Tensor, path: Path) -> None:
    """Write a picture, (3, H, W) or (1, H, W), floating values in [0, 1] or uint8, to a PNG file."""
    pixels = image if image.dtype == torch.uint8 else (image.float().clamp(0, 1) * 255).round().byte()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()).save(path)


class ShownSample(NamedTuple):
    """One sample on a page."""

    pictures: dict[str, torch.Tensor]
    """(3, H, W) in [0, 1], by what they show."""
    title: str


class SamplePage:
    """Collects samples during an evaluation: ``predictions.png`` shows some, and every so many get a file each.

    Args:
        folder: Where to write.
        per_group: How many samples of each group, such as right and wrong guesses, the page shows at most.
        every: Write every so many samples to ``samples/<number>.png``; 0: none.
    """

    def __init__(self, folder: Path, per_group: int, every: int):
        self.folder, self.per_group, self.every = folder, per_group, every
        self.groups: dict[str, list[ShownSample]] = {}
        self._seen = 0

    def add(self, row: dict[str, Any], data_dict: dict[str, Any], output_dict: dict[str, Any]) -> None:
        """Add one sample, if the page has room for it or its turn for a file has come.

        ``row`` is its line in ``samples.csv``: its number as ``sample``, ``guess`` and ``label`` if it is classified,
        and its results, the first of which is the title otherwise. The other arguments are those of ``draw_sample``.
        """
        group, title = _describe(row)
        shown = self.groups.setdefault(group, [])
        is_shown = len(shown) < self.per_group
        is_written = self.every > 0 and self._seen % self.every == 0
        self._seen += 1
        pictures = draw_sample(data_dict, output_dict) if is_shown or is_written else {}
        if is_written and pictures:
            picture = torch.cat(list(pictures.values()), dim=2)
            write_picture(picture, self.folder / "samples" / f"{row['sample']:06d}.png")
        if is_shown and pictures:
            shown.append(ShownSample(pictures, title))

    def write(self) -> None:
        """Write ``predictions.png``: a row for each group, or two samples a row if there is only one group."""
        rows = sorted((group, samples) for group, samples in self.groups.items() if samples)
        if [group for group, _ in rows] == [""]:
            rows = in_rows(rows[0][1], 2)
        if rows:
            sample_figure(rows).savefig(self.folder / "predictions.png", dpi=150)


def _describe(row: dict[str, Any]) -> tuple[str, str]:
    """Return the group and the title of a sample."""
    if "guess" in row and "label" not in row:
        return "", f"{row['guess']}"
    if "guess" in row:
        is_right = row["guess"] == row["label"]
        return ("right", f"{row['guess']}") if is_right else ("wrong", f"{row['guess']}, is {row['label']}")
    return "", next((f"{name} {float(value):.2f}" for name, value in row.items() if name != "sample"), "")


def in_rows(samples: list[ShownSample], across: int) -> list[tuple[str, list[ShownSample]]]:
    """Return samples as unnamed rows of a page."""
    return [("", samples[start : start + across]) for start in range(0, len(samples), across)]


def sample_figure(rows: list[tuple[str, list[ShownSample]]]) -> Figure:
    """Return a page with rows of samples: the row's name at its left, each sample's title above it."""
    from matplotlib.figure import Figure

    first = rows[0][1][0]
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


def _enlarge(images: torch.Tensor) -> torch.Tensor:
    """Return small images with each pixel repeated."""
    times = -(-_MIN_SIDE // max(images.shape[-2:]))
    return functional.interpolate(images, scale_factor=times) if times > 1 else images


def _side_by_side(images: torch.Tensor) -> torch.Tensor:
    """Return images (count, 3, H, W) as one row, with black lines between them."""
    return torch.cat(list(functional.pad(images, (1, 1, 1, 1))), dim=2)
