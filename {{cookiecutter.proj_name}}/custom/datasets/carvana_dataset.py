"""Carvana: photographs of cars, and masks that cut them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import DATASET_REGISTRY, BaseDataset, UserError
from common.data import split_groups
from common.images.reading import read_image

SPLITS = ("train", "val", "eval")


@DATASET_REGISTRY.register()
class CarvanaDataset(BaseDataset):
    """Photographs in ``<data_dir>/carvana/train/<car>_<angle>.jpg``, masks in ``train_masks/<car>_<angle>_mask.gif``.

    A sample is ``{"image": uint8 (3, H, W), "mask": float32 (1, H, W), 1 on the car}``. All photographs of a car are in
    the same split, so that no car is in two splits. Source: the Carvana Image Masking Challenge (2017),
    where the files are to be had.

    Args:
        data_dir: Root of all data sets.
        split: ``train``, ``val`` or ``eval``.
        shares: Shares of the three splits, of all cars.
        seed: Seed of the division.

    Raises:
        UserError: Another split, the folders or a mask are missing.
        ValueError: Shares that are negative, or above 1 together.
    """

    classes = ("background", "car")
    random_generators = ()  # reading a photograph draws nothing

    def __init__(
        self,
        data_dir: str,
        split: str = "train",
        shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
        seed: int = 0,
    ):
        super().__init__(data_dir)
        self.check_split(split, SPLITS)
        images = sorted(self.find("carvana/train").glob("*.jpg"))
        self.masks = self.find("carvana/train_masks")
        missing = [path for path in images if not self.mask_of(path).is_file()]
        if missing:
            others = f", nor do {len(missing) - 1} others" if len(missing) > 1 else ""
            raise UserError(f"{missing[0]}: its mask {self.mask_of(missing[0])} does not exist{others}")
        cars = [path.stem.rpartition("_")[0] or path.stem for path in images]
        self.images = [images[row] for row in split_groups(cars, shares, seed)[SPLITS.index(split)]]

    def mask_of(self, image: Path) -> Path:
        """Return the file of a photograph's mask."""
        return self.masks / f"{image.stem}_mask.gif"

    def path(self, index: int) -> Path:
        """Return the file of a photograph."""
        return self.images[index]

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a photograph and its mask.

        Raises:
            OSError: One of them cannot be read.
            ValueError: Their sizes differ.
        """
        image, file = read_image(self.images[index]), self.mask_of(self.images[index])
        mask = read_image(file, "L")
        if mask.shape[1:] != image.shape[1:]:
            sizes = [f"{height} x {width}" for height, width in (mask.shape[1:], image.shape[1:])]
            raise ValueError(f"its mask {file} has {sizes[0]} pixels, the image {sizes[1]}")
        return {"image": image, "mask": (mask > 0).float()}
