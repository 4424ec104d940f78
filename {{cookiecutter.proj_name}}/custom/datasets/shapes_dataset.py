"""Drawn shapes that are to be found: a set for segmentation that needs no files."""

from __future__ import annotations

import numpy as np
import torch

from common import DATASET_REGISTRY, ArrayDataset

# The seed and the number of samples of each split: other seeds, other pictures.
SPLITS = {"train": (0, 800), "val": (1, 200), "eval": (2, 200)}


@DATASET_REGISTRY.register()
class ShapesDataset(ArrayDataset):
    """Ellipses and rectangles of any color on a gray and noisy ground, crossed by lines; the mask is where a shape is.

    A sample is ``{"image": uint8 (3, size, size), "mask": float32 (1, size, size)}``. It is drawn at the start, always
    the same.

    Args:
        data_dir: Not used.
        split: ``train`` (800 pictures), ``val`` (200) or ``eval`` (200).
        size: Pixels a side.

    Raises:
        UserError: Another split.
    """

    classes = ("background", "shape")

    def __init__(self, data_dir: str, split: str = "train", size: int = 64):
        self.check_split(split, SPLITS)
        seed, samples = SPLITS[split]
        random = np.random.default_rng(seed)
        drawn = [draw_scene(random, size) for _ in range(samples)]
        images, masks = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*drawn, strict=True))
        super().__init__(data_dir, image=images.permute(0, 3, 1, 2).contiguous(), mask=masks.float().unsqueeze(1))


def draw_scene(random: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture, uint8 (size, size, 3), and where its shapes are, bool (size, size)."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    slope = random.normal(0, 0.3, 2)
    image = np.repeat((random.uniform(0.3, 0.7) + x * slope[0] + y * slope[1])[..., None], 3, axis=2)
    mask = np.zeros((size, size), bool)
    for is_shape in random.permutation([True] * random.integers(1, 4) + [False] * random.integers(1, 4)):
        (cx, cy), (a, b), turn = random.uniform(0.2, 0.8, 2), random.uniform(0.1, 0.25, 2), random.uniform(0, np.pi)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        if not is_shape:
            inside = abs(v) < 0.015
        elif random.random() < 0.5:
            inside = (u / a) ** 2 + (v / b) ** 2 < 1
        else:
            inside = (abs(u) < a) & (abs(v) < b)
        image[inside] = random.permutation([0.1, random.uniform(0.1, 0.9), 0.9])
        mask[inside] |= is_shape
    image += random.normal(0, 0.08, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8), mask
