"""Transforms that move pixels, together with masks, boxes and keypoints."""

import torch
from kornia.augmentation import GeometricAugmentationBase2D
from kornia.constants import Resample
from torch.nn import functional

from common.config.registry import TRANSFORM_REGISTRY

_FLIPS = {"horizontal": (True, False), "vertical": (False, True), "diagonal": (True, True)}
_MODES = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}


@TRANSFORM_REGISTRY.register()
class RandomFlip(GeometricAugmentationBase2D):
    """Flips images.

    Args:
        direction: ``horizontal``, ``vertical``, ``diagonal`` (both at once), or a list to draw from.
        p: Probability of a flip.

    Raises:
        ValueError: An unknown direction.
    """

    def __init__(self, direction: str | list[str] = "horizontal", p: float = 0.5):
        super().__init__(p=1.0)
        self._p = p
        directions = [direction] if isinstance(direction, str) else direction
        for name in directions:
            if name not in _FLIPS:
                raise ValueError(f"direction must be of {', '.join(_FLIPS)}, found {name!r}")
        self._flips = torch.tensor([_FLIPS[name] for name in directions])

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Return for each image whether it is flipped along x and along y: bool (batch, 2)."""
        happens = torch.rand(batch_shape[0]) < self._p
        return {"flips": self._flips[torch.randint(len(self._flips), happens.shape)] & happens[:, None]}

    def compute_transformation(self, input: torch.Tensor, params: dict, flags: dict) -> torch.Tensor:
        """Return matrices (batch, 3, 3) that map the centers of pixels."""
        size = input.new_tensor([input.shape[-1], input.shape[-2]])
        flips = params["flips"].to(input.device)
        matrix = torch.diag_embed(functional.pad(1 - 2 * flips.to(input.dtype), (0, 1), value=1.0))
        matrix[:, :2, 2] = flips * (size - 1)
        return matrix

    def apply_transform(
        self, input: torch.Tensor, params: dict, flags: dict, transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the images flipped."""
        output = input.clone()
        for axes, flips in (((-1,), (True, False)), ((-2,), (False, True)), ((-1, -2), (True, True))):
            rows = (params["flips"] == torch.tensor(flips)).all(dim=1).nonzero().squeeze(1)
            if len(rows):
                output[rows] = input[rows].flip(axes)
        return output


@TRANSFORM_REGISTRY.register()
class Resize(GeometricAugmentationBase2D):
    """Resizes all images to the same size.

    Args:
        target_size: Height and width in pixels, or one number for both.
        interpolation: ``nearest``, ``bilinear`` or ``bicubic``, antialiased if an image shrinks. Masks: nearest.
        keep_ratio: Keep the aspect ratio, and pad with 0 at the right or at the bottom.

    Raises:
        ValueError: An unknown interpolation.
    """

    def __init__(self, target_size: int | tuple[int, int], interpolation: str = "bilinear", keep_ratio: bool = False):
        super().__init__(p=1.0, same_on_batch=True)
        if interpolation not in _MODES:
            raise ValueError(f"interpolation must be one of {', '.join(_MODES)}, found {interpolation!r}")
        self._size = (target_size, target_size) if isinstance(target_size, int) else tuple(target_size)
        self._keep_ratio = keep_ratio
        self.flags = {"resample": Resample.get(interpolation.upper())}

    def compute_transformation(self, input: torch.Tensor, params: dict, flags: dict) -> torch.Tensor:
        """Return matrices (batch, 3, 3) that map the centers of pixels."""
        (new_height, new_width), (height, width) = self._scaled(input), input.shape[-2:]
        scale = input.new_tensor([new_width / width, new_height / height])
        matrix = torch.diag(functional.pad(scale, (0, 1), value=1.0))
        matrix[:2, 2] = (scale - 1) / 2
        return matrix.expand(len(input), 3, 3)

    def apply_transform(
        self, input: torch.Tensor, params: dict, flags: dict, transform: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the images in the new size."""
        mode = _MODES[flags["resample"].name.lower()]
        output = functional.interpolate(input, self._scaled(input), mode=mode, antialias=mode != "nearest-exact")
        missing = [whole - part for whole, part in zip(self._size, output.shape[-2:], strict=True)]
        return functional.pad(output, (0, missing[1], 0, missing[0])) if any(missing) else output

    def _scaled(self, input: torch.Tensor) -> tuple[int, int]:
        """Return the size of an image before padding."""
        if not self._keep_ratio:
            return self._size
        scale = min(new / old for new, old in zip(self._size, input.shape[-2:], strict=True))
        height, width = (max(1, round(old * scale)) for old in input.shape[-2:])
        return height, width
