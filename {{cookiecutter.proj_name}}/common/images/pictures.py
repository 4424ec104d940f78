"""Pages of samples beside the model's predictions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional

from common.log.console import add_log
from common.log.metric import class_numbers, predicted_classes

_SIDES = 96, 256  # pixels of a picture's longer side on a page: smaller ones are enlarged, larger ones reduced
_WIDTH = 1200  # pixels of a page, unless a single sample is wider
_GAP, _LINE = 12, 18  # pixels between samples, and of a line of text
_COLORS = {None: "#999999", True: "#2a9d3a", False: "#d62828"}  # of frames: no guess, a right one, a wrong one


class ShownSample(NamedTuple):
    """One sample on a page. Whether its guess is right colors its frame; None: there is no guess."""

    pictures: dict[str, torch.Tensor]  # (3, H, W) in [0, 1], by what they show
    title: str = ""
    is_right: bool | None = None
    name: str = ""


def draw_samples(
    data_dict: dict[str, Any], output_dict: dict[str, Any], count: int, classes: Sequence[str] | None = None
) -> dict[str, torch.Tensor]:
    """Return a page with a batch's first samples, uint8 (3, H, W), by its name; empty for other tasks.

    ``triplets`` for a batch with a ``mask``: image, true mask and prediction. ``guesses`` for one with a ``label``:
    images above the guesses, the right ones in a green frame, the wrong ones in a red frame and with the true class.
    What has other shapes is not drawn; the first time, a warning says so.

    Args:
        data_dict: ``image`` (batch, channels, H, W) of any range, as ``as_pictures`` takes it, and ``mask``
            (batch, H, W) or (batch, 1, H, W), or ``label`` (batch,).
        output_dict: ``logits`` (batch, classes, H, W) with a mask, (batch, classes) with a label.
        count: The maximum number of samples.
        classes: The names of the classes. None: their numbers.
    """
    logits = output_dict.get("logits")
    if "image" not in data_dict or not isinstance(logits, torch.Tensor) or not data_dict.keys() & {"mask", "label"}:
        return {}
    values = {key: data_dict[key] for key in ("image", "mask", "label") if key in data_dict}
    first = {key: value[:count] if isinstance(value, torch.Tensor) else value for key, value in values.items()}
    logits = logits[:count]
    samples = as_samples(_draw(first, logits))
    if "mask" in first or not samples:
        return {"triplets": draw_page(samples)} if samples else {}
    guesses = (logits.argmax(dim=1) if classes else predicted_classes(logits)).tolist()
    for i, (guess, label) in enumerate(zip(guesses, first["label"].tolist(), strict=True)):
        shown = (classes[guess], classes[label]) if classes else (guess, label)
        samples[i] = ShownSample(samples[i].pictures, _title(*shown), guess == label)
    return {"guesses": draw_page(samples)}


def draw_sample(data_dict: dict[str, Any], output_dict: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return one sample's image and, if it has a mask, the true and the predicted one: (3, H, W) in [0, 1], by name.

    The arguments are as for ``draw_samples``, without the batch dimension, and share no memory with the pictures.
    """
    logits = output_dict.get("logits")
    if "image" not in data_dict or not isinstance(logits, torch.Tensor):
        return {}
    values = {key: data_dict[key] for key in ("image", "mask") if key in data_dict}
    batch = {key: value[None] if isinstance(value, torch.Tensor) else value for key, value in values.items()}
    return {name: picture[0].clone() for name, picture in _draw(batch, logits[None]).items()}


def _draw(batch: dict[str, Any], logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the images and, if there is a ``mask``, the true and the predicted ones: (batch, 3, H, W) in [0, 1].

    Empty, with a warning the first time, where the shapes do not fit.
    """
    found = {name: _shape(value) for name, value in {**batch, "logits": logits}.items()}
    try:
        pictures = {"image": as_pictures(batch["image"])}
        count, _, *size = found["image"]
        if "mask" in batch:
            mask_fits = found["mask"] in ((count, *size), (count, 1, *size))
            if not mask_fits or logits.ndim != 4 or [*logits.shape[2:]] != size:
                expected = (
                    f"masks (batch, H, W) or (batch, 1, H, W) and logits (batch, classes, H, W) as {found['image']}"
                )
                raise ValueError(f"expected {expected}, found {found['mask']} and {found['logits']}")
            masks = {"truth": class_numbers(batch["mask"], logits), "prediction": predicted_classes(logits)}
            return pictures | {name: color_classes(mask, max(2, logits.shape[1])) for name, mask in masks.items()}
        if "label" in batch and (logits.ndim != 2 or found["label"] != (count,)):
            expected = "labels (batch,) and logits (batch, classes)"
            raise ValueError(f"expected {expected}, found {found['label']} and {found['logits']}")
        return pictures
    except ValueError as error:
        _warn(f"samples are not drawn: {error}")
        return {}


def _shape(value: Any) -> Any:
    """Return the shape of a tensor, or the type of what is none."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__


@cache
def _warn(text: str) -> None:
    add_log(text, "WARNING")


def as_samples(pictures: dict[str, torch.Tensor]) -> list[ShownSample]:
    """Return the samples of a batch, given its pictures (batch, 3, H, W) by what they show."""
    return [ShownSample(dict(zip(pictures, images, strict=True))) for images in zip(*pictures.values(), strict=True)]


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
    path.parent.mkdir(parents=True, exist_ok=True)
    _to_image(image).save(path)


class SamplePage:
    """Collects samples during an evaluation: ``predictions.png`` shows some, and every so many get a file each.

    Args:
        folder: Where to write.
        per_group: How many samples of each group, such as right and wrong guesses, the page shows at most.
        every: Write every so many samples to ``samples/<number>_<name of its file>.png``; 0: none.
        find_path: Returns the file of the sample of a number, or None.
    """

    def __init__(self, folder: Path, per_group: int, every: int, find_path: Callable[[int], Any] = lambda number: None):
        self.folder, self.per_group, self.every, self.find_path = folder, per_group, every, find_path
        self.groups: dict[bool | None, list[ShownSample]] = {}  # by whether the guess is right
        self._seen = 0

    def add(self, row: dict[str, Any], data_dict: dict[str, Any], output_dict: dict[str, Any]) -> None:
        """Add one sample, if the page has room for it or its turn for a file has come.

        ``row`` is its line in ``samples.csv``: its number as ``sample``, ``guess`` and ``label``, or any results.
        """
        is_right = row["guess"] == row["label"] if {"guess", "label"} <= row.keys() else None
        shown = self.groups.setdefault(is_right, [])
        is_shown, is_written = len(shown) < self.per_group, self.every > 0 and self._seen % self.every == 0
        self._seen += 1
        pictures = draw_sample(data_dict, output_dict) if is_shown or is_written else {}
        if not pictures:
            return
        name = Path(self.find_path(row["sample"]) or "").stem
        if is_written:
            file = "_".join([f"{row['sample']:06d}", *re.findall(r"[\w.-]+", name)])
            write_picture(torch.cat(list(pictures.values()), dim=2), self.folder / "samples" / f"{file}.png")
        if is_shown:
            results = (f"{key} {float(value):.2f}" for key, value in row.items() if key != "sample")
            title = _title(row["guess"], row.get("label", row["guess"])) if "guess" in row else next(results, "")
            shown.append(ShownSample(pictures, title, is_right, name))

    def write(self) -> None:
        """Write ``predictions.png``, wrong guesses first."""
        samples = [sample for is_right in (False, True, None) for sample in self.groups.get(is_right, [])]
        if samples:
            write_picture(draw_page(samples), self.folder / "predictions.png")


def _title(guess: Any, label: Any) -> str:
    return f"{guess}" if guess == label else f"{guess}, is {label}"


def draw_page(samples: list[ShownSample]) -> torch.Tensor:
    """Return samples on a white page, uint8 (3, H, W), as many side by side as fit."""
    cells = [_draw_cell(sample) for sample in samples]
    width, height = (_GAP + max(cell.size[axis] for cell in cells) for axis in (0, 1))
    across = max(1, min(len(cells), _WIDTH // width))
    page = Image.new("RGB", (_GAP + across * width, _GAP + math.ceil(len(cells) / across) * height), "white")
    for i, cell in enumerate(cells):
        page.paste(cell, (_GAP + i % across * width, _GAP + i // across * height))
    return torch.from_numpy(np.array(page)).permute(2, 0, 1)


def _draw_cell(sample: ShownSample) -> Image.Image:
    """Return a sample's pictures side by side in frames, above what they show and the sample's title and name."""
    images = [_to_image(_to_size(picture)) for picture in sample.pictures.values()]
    step, high = images[0].width + 8, images[0].height + 6
    lines = [list(sample.pictures)] if len(images) > 1 else []
    whole = step * len(images) - 2
    title = sample.title if _font().getlength(sample.title) <= whole else sample.title.replace(", is ", ",\nis ")
    lines += [[text] for text in (*title.split("\n"), sample.name) if text]
    cell = Image.new("RGB", (whole, high + _LINE * len(lines)), "white")
    pen = ImageDraw.Draw(cell)
    for i, image in enumerate(images):
        pen.rectangle((step * i, 0, step * i + step - 3, high - 1), "white", _COLORS[sample.is_right], 2)
        cell.paste(image, (step * i + 3, 3))
    for i, texts in enumerate(lines):
        width = cell.width // len(texts)
        for k, text in enumerate(texts):
            while len(text) > 1 and _font().getlength(text) > width:
                text = text.rstrip("…")[:-1] + "…"
            color = "black" if texts[k] in title.split("\n") else "#777777"
            pen.text((width * k + width // 2, high + _LINE * i + 2), text, color, _font(), anchor="ma")
    return cell


@cache
def _font() -> Any:
    from matplotlib import get_data_path  # its font has most alphabets

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13)


def _to_image(picture: torch.Tensor) -> Image.Image:
    pixels = picture if picture.dtype == torch.uint8 else (picture.float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())


def _to_size(picture: torch.Tensor) -> torch.Tensor:
    """Return a picture (3, H, W) enlarged, with each pixel repeated, or reduced."""
    side, (smallest, largest) = max(picture.shape[1:]), _SIDES
    times = largest / side if side > largest else math.ceil(smallest / side)
    return functional.interpolate(picture[None], scale_factor=times, mode="area" if times < 1 else "nearest")[0]
