"""Photographs in a folder for each class: your own, or fabrics that are drawn at the first run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import DATASET_REGISTRY
from common.images.fabrics import draw_fabrics
from common.images.folder import ImageFolder

DRAWN = Path("data/fabrics")


@DATASET_REGISTRY.register()
class PhotosDataset(ImageFolder):
    """Photographs in ``<data_dir>/<class>/*``, or in ``train/<class>/*`` and ``val/<class>/*``.

    Its arguments are those of ``ImageFolder``. This is the place to change what a sample is: add the picture's number
    within a series, read a second file that lies beside it, take the label from the file's name.
    """

    def prepare(self) -> None:
        """Draw the example's photographs, if they are asked for and not there."""
        if self.data_dir == DRAWN:
            draw_fabrics(self.data_dir)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``{"image": uint8 (3, height, width), "label": int}``; an error here names the file."""
        return super().__getitem__(index)
