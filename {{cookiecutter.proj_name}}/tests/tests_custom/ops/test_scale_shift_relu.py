"""The operator scale_shift_relu beside plain torch."""

import itertools
import unittest

import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.tests_custom.ops.cases import DEVICES, TYPES, layouts, needs_built, shapes
from custom.ops.func import ScaleShiftReLU, scale_shift_relu, scale_shift_relu_reference


def make(device="cpu", dtype=torch.float64, rows=6, channels=4):
    """Return an input, a scale and a shift that want gradients."""
    torch.manual_seed(0)
    sizes = (rows, channels), (channels,), (channels,)
    return [torch.randn(size, dtype=dtype, device=device, requires_grad=True) for size in sizes]


built = needs_built("scale_shift_relu")


@built
class TestValues(unittest.TestCase):
    """Every type, layout and shape, forward and backward."""

    def test_equal_to_torch(self):
        for device, (dtype, tolerance) in itertools.product(DEVICES, TYPES.items()):
            for shape in [(0, 3), (3, 0), (1, 1), (700, 40), *shapes(2, 10)]:
                scale, shift = (torch.randn(shape[1], device=device).to(dtype) for _ in range(2))
                for name, x in layouts(shape, dtype, device):
                    with self.subTest(device=device, dtype=dtype, shape=shape, layout=name):
                        found = scale_shift_relu(x, scale, shift)
                        expected = scale_shift_relu_reference(x.double(), scale.double(), shift.double())
                        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=2 * tolerance)

    def test_gradients_equal_torchs(self):
        for device, (dtype, tolerance) in itertools.product(DEVICES, TYPES.items()):
            for rows, channels in ((1, 1), (70, 33), (3000, 5), (0, 4)):
                with self.subTest(device=device, dtype=dtype, rows=rows, channels=channels):
                    inputs = make(device, dtype, rows, channels)
                    found = torch.autograd.grad(scale_shift_relu(*inputs).sum(), inputs)
                    wide = [value.detach().double().requires_grad_() for value in inputs]
                    expected = torch.autograd.grad(scale_shift_relu_reference(*wide).sum(), wide)
                    for one, other in zip(found, expected, strict=True):
                        scale = other.abs().max().item() if other.numel() else 1.0
                        torch.testing.assert_close(one.double(), other, rtol=0, atol=4 * tolerance * max(scale, 1.0))

    def test_not_finite(self):
        x = torch.tensor([[torch.nan, torch.inf, -torch.inf]])
        one, zero = torch.ones(3), torch.zeros(3)
        expected = scale_shift_relu_reference(x, one, zero)
        torch.testing.assert_close(scale_shift_relu(x, one, zero), expected, equal_nan=True)


@built
class TestGradients(unittest.TestCase):
    """First and second, and what torch itself checks of an operator."""

    def test_gradcheck(self):
        for device in DEVICES:
            self.assertTrue(gradcheck(scale_shift_relu, make(device)))
            self.assertTrue(gradgradcheck(scale_shift_relu, make(device)))

    def test_opcheck(self):
        operators = torch.ops.project_ops
        for device in DEVICES:
            x, scale, shift = make(device)
            torch.library.opcheck(operators.scale_shift_relu.default, (x, scale, shift, True))
            values = [value.detach() for value in (x, scale, shift)]
            torch.library.opcheck(operators.scale_shift_relu.default, (*values, False))
            torch.library.opcheck(operators.scale_shift_relu_backward.default, (x, x, scale, x.detach() > 0))

    def test_the_by_product_is_kept_only_for_a_gradient(self):
        kept = []

        class Watching(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, arguments=(), keys=None):
                if "scale_shift_relu" in str(function):
                    kept.append(arguments[3])
                return function(*arguments, **(keys or {}))

        x, scale, shift = make()
        with Watching():
            scale_shift_relu(x, scale, shift)
            scale_shift_relu(x.detach(), scale, shift.detach())
            scale_shift_relu(x.detach(), scale.detach(), shift.detach())
            with torch.no_grad():
                scale_shift_relu(x, scale, shift)
        self.assertEqual(kept, [True, True, False, False])
        mask = torch.ops.project_ops.scale_shift_relu(x.detach(), scale.detach(), shift.detach(), False)[1]
        self.assertEqual(mask.numel(), 0)


@built
class TestInTorch(unittest.TestCase):
    """Compile, vmap and autocast."""

    def test_compile(self):
        compiled = torch.compile(scale_shift_relu, fullgraph=True)
        inputs = make(dtype=torch.float32)
        torch.testing.assert_close(compiled(*inputs), scale_shift_relu_reference(*inputs))
        found = torch.autograd.grad(compiled(*inputs).sum(), inputs)
        expected = torch.autograd.grad(scale_shift_relu_reference(*inputs).sum(), inputs)
        torch.testing.assert_close(found, expected)

    def test_vmap(self):
        _, scale, shift = (value.detach() for value in make())
        x = torch.randn(3, 6, 4, dtype=torch.float64)
        found = torch.vmap(lambda one: scale_shift_relu(one, scale, shift))(x)
        torch.testing.assert_close(found, torch.relu(x * scale + shift))

    def test_autocast(self):
        module = ScaleShiftReLU(4)
        with torch.autocast("cpu", torch.bfloat16):
            y = module(torch.randn(6, 4))
        self.assertEqual(y.dtype, torch.bfloat16)
        y.sum().backward()
        self.assertEqual(module.scale.grad.dtype, torch.float32)


class TestBadInput(unittest.TestCase):
    """An error that names what was found, built or not."""

    def test_they_do_not_fit(self):
        x, channels = torch.zeros(5, 3), torch.zeros(3)
        for inputs, message in (
            ((x, torch.zeros(4), channels), r"found x \(5, 3\), scale \(4,\), shift \(3,\)"),
            ((x[0], channels, channels), r"found x \(3,\)"),
            ((x, channels.double(), channels), "found x of torch.float32 and scale of torch.float64"),
            ((x.long(), channels.long(), channels.long()), "expected floating-point tensors, found x of torch.int64"),
            ((x, channels, channels.to("meta")), "found x on cpu and shift on meta"),
        ):
            with self.assertRaisesRegex(ValueError, f"scale_shift_relu: .*{message}"):
                scale_shift_relu(*inputs, fallback=True)

    @built
    def test_the_operator_itself_checks_too(self):
        for inputs in (
            (torch.zeros(5, 3), torch.zeros(4), torch.zeros(4)),
            (torch.zeros(5, 3), torch.zeros(3).double(), torch.zeros(3).double()),
            (torch.zeros(5, 3), torch.zeros(3), torch.zeros(4)),
        ):
            with self.assertRaisesRegex(RuntimeError, r"scale_shift_relu: expected .*, found \("):
                torch.ops.project_ops.scale_shift_relu(*inputs, False)
