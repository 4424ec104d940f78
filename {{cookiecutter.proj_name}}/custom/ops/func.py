"""The operators, as functions and as modules. Importing this works unbuilt; calling one that is not built says how."""

from custom.ops.add_matrix import AddMatrix, add_matrix, add_matrix_reference
from custom.ops.scale_shift_relu import (
    ScaleShiftReLU,
    scale_shift_relu,
    scale_shift_relu_reference,
)

__all__ = [
    "AddMatrix",
    "ScaleShiftReLU",
    "add_matrix",
    "add_matrix_reference",
    "scale_shift_relu",
    "scale_shift_relu_reference",
]
