"""Named transforms one after another, on a sample or on a whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from common.config.errors import UserError
from common.config.registry import TRANSFORM_REGISTRY
from common.data.dataset import ALL_GENERATORS

if TYPE_CHECKING:
    from kornia.augmentation import AugmentationSequential

# What moves with the image, and kornia's name for it.
_KEYS = {"image": "input", "mask": "mask", "boxes": "bbox_xyxy", "keypoints": "keypoints"}
TO_TENSOR = "ToTensor"


class Pipeline:
    """The transforms of a config. Masks, boxes and keypoints move with the image; all other entries stay unchanged.

    A sample has ``image`` (C, H, W); ``mask`` (H, W) or (C, H, W) of any dtype, never interpolated; ``boxes`` (N, 4),
    float: left, top, right and bottom edge in pixels, clipped to the image; ``keypoints`` (N, 2), float: x and y in
    pixels, (0, 0) being the center of the first pixel. In a batch each has one more dimension in front.

    A transform is one of this package (``Resize``, ``RandomFlip``, ``RandomColorJitter``) or any of
    ``kornia.augmentation`` by its own name (``Normalize``, ``RandomCrop``, ...). ``{type: ToTensor}`` comes first if
    images are not floating-point tensors yet: it converts PIL images, arrays (H, W[, C]) and integer tensors to
    (C, H, W) in [0, 1]. Source: Riba et al., Kornia (2020).

    Args:
        sections: A section ``{type, ...arguments}`` for each transform.
        where: Their place in the config, for messages: ``dataset.train.transforms``.

    Raises:
        UserError: Not a list of sections, an unknown type, or arguments that do not fit.
    """

    def __init__(self, sections: list[dict[str, Any]], where: str = "transforms"):
        if not isinstance(sections, list):
            raise UserError(f"{where}: expected a list of sections with a 'type', found {sections!r}")
        types = [section.get("type") if isinstance(section, dict) else None for section in sections]
        self._converts = types[:1] == [TO_TENSOR]
        if TO_TENSOR in types[1:]:
            raise UserError(f"{where}.{types.index(TO_TENSOR, 1)}: ToTensor comes first")
        self._augment = _build(sections, where, start=int(self._converts))
        modules = {type(step).__module__.split(".")[0] for step in self._augment.children()} if self._augment else set()
        self.random_generators = ("torch",) if modules <= {"kornia", "common"} else ALL_GENERATORS

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a transformed sample; raise a ValueError unless its image is floating-point, its mask as large."""
        if self._converts:
            sample = {**sample, "image": to_tensor(sample["image"])}
        batch = self._transform({key: sample[key].unsqueeze(0) for key in _KEYS if key in sample})
        return {**sample, **{key: value.squeeze(0) for key, value in batch.items()}}

    def on_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a transformed batch; each sample gets its own random numbers. Raises as for a single sample."""
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
        return batch | {k: _from_kornia(k, value, batch[k], moved["image"].shape[-2:]) for k, value in moved.items()}


def _build(sections: list[dict[str, Any]], where: str, start: int) -> AugmentationSequential | None:
    """Return the transforms from number ``start`` on; None, without importing kornia, if there are none."""
    numbered = list(enumerate(sections))[start:]
    if not numbered:
        return None
    from kornia.augmentation import AugmentationSequential

    return AugmentationSequential(*(TRANSFORM_REGISTRY.build(_with_tuples(s), f"{where}.{i}") for i, s in numbered))


def _with_tuples(section: Any) -> Any:
    """Return a section whose lists of numbers are tuples, which kornia expects for sizes and ranges."""
    if not isinstance(section, dict):
        return section
    are_numbers = {key: isinstance(v, list) and not any(isinstance(i, str) for i in v) for key, v in section.items()}
    return {key: tuple(value) if are_numbers[key] else value for key, value in section.items()}


def _for_kornia(key: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if key == "mask":
        return (value if value.ndim == 4 else value.unsqueeze(1)).to(dtype)
    return value - 0.5 if key == "boxes" else value  # kornia moves corners as it moves the centers of pixels


def _from_kornia(key: str, value: torch.Tensor, before: torch.Tensor, size: torch.Size) -> torch.Tensor:
    if key == "mask":
        return (value if before.ndim == 4 else value.squeeze(1)).to(before.dtype)
    if key == "boxes":
        height, width = size
        return (value + 0.5).clamp(min=0).minimum(value.new_tensor([width, height, width, height]))
    return value


def to_tensor(image: Any) -> torch.Tensor:
    """Return a PIL image, an array (H, W[, C]) or a tensor (C, H, W) as float32 (C, H, W) in [0, 1]."""
    if not isinstance(image, torch.Tensor):
        image = torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1).contiguous()
    return to_float(image)


def to_float(image: torch.Tensor) -> torch.Tensor:
    """Return an image of integers up to 255 as float32 in [0, 1], and a floating-point one unchanged."""
    return image if image.is_floating_point() else image.float().div_(255)
