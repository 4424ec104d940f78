"""Picture files → tensors, upright and at the size that is needed."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels."""
ChooseBox = Callable[[int, int, float], Box]
"""Called with the width and the height of a picture, and with the width of the part over its height."""

_TURNS = {  # how a picture becomes upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes, such as ``.jpg``, of all files that Pillow reads."""
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in Image.OPEN or kind == "MPO")


def read_image(
    path: str | Path, mode: str = "RGB", size: int | tuple[int, int] | None = None, choose_box: ChooseBox | None = None
) -> torch.Tensor:
    """Return a picture file, or its first frame, as uint8 (C, H, W), turned as its EXIF orientation says.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is enough, which takes a fraction of the time. Colors
    are converted to RGB, 16 bits to 8, and in the mode ``RGB`` what is transparent becomes white.

    Args:
        mode: ``RGB``, or ``L`` for one channel of gray.
        size: Height and width, or one number for both, to which a part of the picture is resized. None: as it is.
        choose_box: Chooses that part, before the picture is turned. None: the largest centered one (``center_box``).

    Raises:
        OSError: The file does not exist or is not a picture.
        ValueError: Its values have more than 16 bits.
    """
    with Image.open(path) as image:
        if image.format not in ("JPEG", "MPO"):  # they alone can be decoded smaller; a TIFF is turned by its loading
            image.load()
        orientation = _orientation(image)
        if size is None:
            return _to_tensor(_turned(_convert(image, mode), orientation))
        height, width = (size, size) if isinstance(size, int) else size
        if orientation in (5, 6, 7, 8):  # they exchange height and width
            height, width = width, height
        whole = image.size
        left, top, right, bottom = (choose_box or center_box)(*whole, width / height)
        enough = math.ceil(whole[0] * width / (right - left)), math.ceil(whole[1] * height / (bottom - top))
        image.draft(None, enough)
        x, y = image.size[0] / whole[0], image.size[1] / whole[1]
        box = left * x, top * y, right * x, bottom * y
        image = _convert(image, mode).resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        return _to_tensor(_turned(image, orientation))


def center_box(width: int, height: int, ratio: float) -> Box:
    """Return the largest part in the middle."""
    part = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - part[0]) / 2, (height - part[1]) / 2
    return left, top, left + part[0], top + part[1]


def random_box(area: tuple[float, float], stretch: float = 4 / 3) -> ChooseBox:
    """Return a function that draws a part from torch's generator.

    ``area`` holds the smallest and the largest share of the picture's area. The part's width over its height is
    stretched by at most ``stretch``. One that is too wide or too high ten times gives way to the largest centered one.
    Source: Szegedy et al., Going Deeper with Convolutions (2015).
    """

    def choose(width: int, height: int, ratio: float) -> Box:
        for _ in range(10):
            share, wider, x, y = torch.rand(4).tolist()
            pixels = width * height * (area[0] + (area[1] - area[0]) * share)
            shape = ratio * stretch ** (2 * wider - 1)
            part = math.sqrt(pixels * shape), math.sqrt(pixels / shape)
            if part[0] <= width and part[1] <= height:
                left, top = (width - part[0]) * x, (height - part[1]) * y
                return left, top, left + part[0], top + part[1]
        return center_box(width, height, ratio)

    return choose


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Return a picture in a mode, with white behind what is transparent."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its values have more than 16 bits (Pillow's mode {image.mode})")
    if mode == "RGB" and image.has_transparency_data:
        layered = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(layered)
    return image if image.mode == mode else image.convert(mode)  # which would copy it


def _orientation(image: Image.Image) -> int:
    """Return the number of a picture's EXIF orientation; 1, which is upright, if it has none or damaged EXIF data."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, struct.error):
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.atleast_3d(np.asarray(image)).transpose(2, 0, 1).copy())
