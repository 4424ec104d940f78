"""Named transforms one after another, on a sample or on a whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from common.config.errors import UserError
from common.config.registry import TRANSFORM_REGISTRY

if TYPE_CHECKING:
    from kornia.augmentation import AugmentationSequential

# What moves with the image, as kornia calls it.
_KEYS = {"image": "input", "mask": "mask", "boxes": "bbox_xyxy", "keypoints": "keypoints"}
TO_TENSOR = "ToTensor"


class Pipeline:
    """The transforms of a config, which carry along what lies on the image.

    In a sample these are ``image`` (C, H, W); ``mask`` (H, W) or (C, H, W) of any dtype, never interpolated; ``boxes``
    (N, 4), float: left, top, right and bottom edge in pixels, cut at the image's border; ``keypoints`` (N, 2), float:
    x and y in pixels, the centre of the first pixel being (0, 0). In a batch each has one dimension more in front.
    Whatever else a sample has stays as it is. Random numbers come from torch's global generator.

    A transform is one of this package (``Resize``, ``RandomFlip``, ``RandomColorJitter``) or any of
    ``kornia.augmentation`` by its own name (``Normalize``, ``RandomCrop``, ``RandomRotation``, ...).
    ``{type: ToTensor}`` comes first where images are not floating tensors yet: it takes PIL images, arrays (H, W[, C])
    and integer tensors, and gives (C, H, W) in [0, 1].

    Source: Riba et al., Kornia (2020), whose augmentations these are.

    Args:
        sections: A section ``{type, ...arguments}`` for each transform.
        where: Their place in the config, for messages: ``dataset.train.transforms``.

    Raises:
        UserError: No list of sections, an unknown type, or arguments that do not fit.
    """

    def __init__(self, sections: list[dict[str, Any]], where: str = "transforms"):
        if not isinstance(sections, list):
            raise UserError(f"{where}: expected a list of sections with a 'type', found {sections!r}")
        types = [section.get("type") if isinstance(section, dict) else None for section in sections]
        self._converts = types[:1] == [TO_TENSOR]
        if TO_TENSOR in types[1:]:
            raise UserError(f"{where}.{types.index(TO_TENSOR, 1)}: ToTensor comes first")
        self._augment = _build(sections, where, int(self._converts))

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a sample as the transforms leave it.

        Raises:
            ValueError: An image that is no floating tensor, or a mask of another size than its image.
        """
        if self._converts:
            sample = {**sample, "image": to_tensor(sample["image"])}
        batch = self._transform({key: sample[key].unsqueeze(0) for key in _KEYS if key in sample})
        return {**sample, **{key: value.squeeze(0) for key, value in batch.items()}}

    def on_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch as the transforms leave it, each sample with random numbers of its own.

        Raises:
            ValueError: Images that are no floating tensors, or masks of another size than the images.
        """
        if self._converts:
            batch = {**batch, "image": to_float(batch["image"])}
        return {**batch, **self._transform({key: batch[key] for key in _KEYS if key in batch})}

    def _transform(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the entries of a batch that move with the image."""
        image, mask = batch["image"], batch.get("mask")
        if not image.is_floating_point():
            raise ValueError(f"the image has dtype {image.dtype}; let the transforms begin with {{type: {TO_TENSOR}}}")
        if mask is not None and mask.shape[-2:] != image.shape[-2:]:
            sizes = [f"{height} x {width}" for height, width in (mask.shape[-2:], image.shape[-2:])]
            raise ValueError(f"the mask has {sizes[0]} pixels, the image {sizes[1]}")
        if self._augment is None:
            return batch
        given = {key: _for_kornia(key, value, image.dtype) for key, value in batch.items() if value.numel()}
        moved = self._augment(*given.values(), data_keys=[_KEYS[key] for key in given])
        moved = dict(zip(given, moved if len(given) > 1 else [moved], strict=True))
        size = moved["image"].shape[-2:]
        return batch | {key: _from_kornia(key, value, batch[key], size) for key, value in moved.items()}


def _build(sections: list[dict[str, Any]], where: str, start: int) -> AugmentationSequential | None:
    """Return kornia's sequence of all transforms from a number on; kornia is loaded only where there are such."""
    if not sections[start:]:
        return None
    from kornia.augmentation import AugmentationSequential

    from common.vision import color, geometry  # noqa: F401  # so that they are registered

    places = [f"{where}.{i}" for i in range(start, len(sections))]
    steps = [
        TRANSFORM_REGISTRY.build(_with_tuples(section), place)
        for section, place in zip(sections[start:], places, strict=True)
    ]
    return AugmentationSequential(*steps)


def _with_tuples(section: Any) -> Any:
    """Return a section in which lists of numbers are tuples, as kornia takes sizes and ranges."""
    if not isinstance(section, dict):
        return section
    are_numbers = {key: isinstance(v, list) and not any(isinstance(i, str) for i in v) for key, v in section.items()}
    return {key: tuple(value) if are_numbers[key] else value for key, value in section.items()}


def _for_kornia(key: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if key == "mask":
        return (value if value.ndim == 4 else value.unsqueeze(1)).to(dtype)
    return value - 0.5 if key == "boxes" else value  # kornia moves corners as it moves the centres of pixels


def _from_kornia(key: str, value: torch.Tensor, before: torch.Tensor, size: torch.Size) -> torch.Tensor:
    if key == "mask":
        return (value if before.ndim == 4 else value.squeeze(1)).to(before.dtype)
    if key == "boxes":
        height, width = size
        return (value + 0.5).clamp(min=0).minimum(value.new_tensor([width, height, width, height]))
    return value


def to_tensor(image: Any) -> torch.Tensor:
    """Return an image as a tensor (C, H, W), float32 in [0, 1].

    Args:
        image: A PIL image, an array (H, W) or (H, W, C), or a tensor (C, H, W); integers up to 255.
    """
    if not isinstance(image, torch.Tensor):
        array = np.array(image)
        image = torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1).contiguous()
    return to_float(image)


def to_float(image: torch.Tensor) -> torch.Tensor:
    """Return an image of integers up to 255 as float32 in [0, 1]; a floating one as it is."""
    return image if image.is_floating_point() else image.float().div_(255)
