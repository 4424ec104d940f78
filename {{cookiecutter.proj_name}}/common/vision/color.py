"""Transforms that change only colors."""

import math
from typing import Any

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.enhance import adjust_gamma, adjust_hue
from kornia.filters import gaussian_blur2d

from common.config.registry import TRANSFORM_REGISTRY

Limits = tuple[float, float]


@TRANSFORM_REGISTRY.register()
class RandomColorJitter(IntensityAugmentationBase2D):
    """Changes brightness, contrast, saturation, hue and gamma, then blurs, each with its own probability.

    A limit is the smallest and the largest value drawn; null leaves that property unchanged. Saturation and hue have no
    effect on images with one channel.

    Args:
        brightness_limit: Factor of all values, such as [0.6, 1.2].
        brightness_p: Probability of the change; the others likewise.
        contrast_limit: Factor of the distance from the image's mean gray.
        saturation_limit: Factor of the distance from each pixel's own gray.
        hue_limit: Rotation of the hue, in [-0.5, 0.5] turns.
        gamma_limit: Exponent of the values.
        blur_limit: Width of the Gaussian kernel in pixels, such as [3, 7]; sigma is 0.15 * width + 0.35, as in OpenCV.
    """

    def __init__(
        self,
        brightness_limit: Limits | None = None,
        brightness_p: float = 0.5,
        contrast_limit: Limits | None = None,
        contrast_p: float = 0.5,
        saturation_limit: Limits | None = None,
        saturation_p: float = 0.5,
        hue_limit: Limits | None = None,
        hue_p: float = 0.5,
        gamma_limit: Limits | None = None,
        gamma_p: float = 0.5,
        blur_limit: Limits | None = None,
        blur_p: float = 0.5,
    ):
        super().__init__(p=1.0)
        self._drawn = {
            _scale_by: (brightness_limit, brightness_p),
            _change_contrast: (contrast_limit, contrast_p),
            _change_saturation: (saturation_limit, saturation_p),
            _turn_hue: (hue_limit, hue_p),
            adjust_gamma: (gamma_limit, gamma_p),
            _blur: (blur_limit, blur_p),
        }
        for limits, _ in self._drawn.values():
            if limits is not None and (len(limits) != 2 or limits[0] > limits[1]):
                raise ValueError(f"a limit is the smallest and the largest value, found {list(limits)}")

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Return the values of each change, float (batch,); NaN for an image that it skips."""
        drawn = {}
        for change, (limits, p) in self._drawn.items():
            if limits is not None:
                happens, share = torch.rand(2, batch_shape[0])
                values = limits[0] + (limits[1] - limits[0]) * share
                drawn[change.__name__] = values.where(happens < p, math.nan)
        return drawn

    def apply_transform(
        self, input: torch.Tensor, params: dict, flags: dict, transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the images with changed colors."""
        output = input.clone()
        for change in self._drawn:
            values = params.get(change.__name__)
            if values is None or values.isnan().all():
                continue
            if change in _IN_PLACE:
                change(output, values.nan_to_num(1.0).to(output)[:, None, None, None])
            else:
                rows = (~values.isnan()).nonzero().squeeze(1)
                changed: Any = change(output[rows], values[rows].to(output))
                output[rows] = changed
        return output


def _scale_by(image: torch.Tensor, factor: torch.Tensor) -> None:
    image.mul_(factor).clamp_(0, 1)


def _change_contrast(image: torch.Tensor, factor: torch.Tensor) -> None:
    mean = _gray(image.mean((2, 3), keepdim=True))
    image.mul_(factor).add_(mean.mul_(1 - factor)).clamp_(0, 1)


def _change_saturation(image: torch.Tensor, factor: torch.Tensor) -> None:
    if image.shape[1] == 3:
        gray = _gray(image).mul_(1 - factor)
        image.mul_(factor).add_(gray).clamp_(0, 1)


_IN_PLACE = (_scale_by, _change_contrast, _change_saturation)  # a factor of 1 leaves an image unchanged


def _turn_hue(image: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    return adjust_hue(image, 2 * math.pi * turn) if image.shape[1] == 3 else image


def _blur(image: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    largest = 2 * math.ceil((float(width.max()) - 1) / 2) + 1
    sigma = (0.15 * width + 0.35)[:, None].expand(-1, 2)
    return gaussian_blur2d(image, (largest, largest), sigma)


def _gray(image: torch.Tensor) -> torch.Tensor:
    """Return the luma of ITU-R BT.601, (batch, 1, H, W); a copy if the images have one channel."""
    if image.shape[1] != 3:
        return image.clone()
    red, green, blue = image.split(1, dim=1)
    return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)
