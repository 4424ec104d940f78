"""Picture files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image


def read_image(path: Path, mode: str = "RGB") -> torch.Tensor:
    """Return a picture file, or its first frame, as uint8 (C, H, W); the mode ``L`` gives one channel of gray.

    Raises:
        OSError: The file does not exist or is not a picture.
    """
    with Image.open(path) as image:
        pixels = np.array(image.convert(mode))
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous()
