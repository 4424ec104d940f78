"""What every operator's tests share: devices, layouts, types, and where they are skipped."""

import random
import unittest

import torch

from custom.ops import library

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def needs_built(*ops):
    """Skip a test where one of these operators is not built."""
    are_built = all(library.has(op) for op in ops)
    return unittest.skipUnless(are_built, f"not built: {', '.join(ops)}; sh scripts/install_ops.sh builds them")


def shapes(dims, count=20, seed=0):
    """Yield random shapes, some of them empty, some larger than what one thread or block takes."""
    draw = random.Random(seed)
    for _ in range(count):
        yield tuple(draw.choice((0, 1, 2, 7, 8, 33, 150)) for _ in range(dims))


def layouts(shape, dtype, device):
    """Yield tensors of one shape in every layout: dense, transposed, strided, expanded, and not aligned to 16 bytes."""
    count = 1
    for size in shape:
        count *= size
    yield "dense", torch.randn(shape, device=device).to(dtype)
    yield "shifted", torch.randn(count + 1, device=device).to(dtype)[1:].view(shape)
    if len(shape) > 1:
        yield "transposed", torch.randn(shape[::-1], device=device).to(dtype).permute(*reversed(range(len(shape))))
        yield "strided", torch.randn(*shape[:-1], 2 * shape[-1], device=device).to(dtype)[..., ::2]
        yield "expanded", torch.randn(1, *shape[1:], device=device).to(dtype).expand(shape)
