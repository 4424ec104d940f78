"""The operator add_matrix beside plain torch."""

import copy
import io
import itertools
import threading
import unittest

import torch
from torch.autograd import gradcheck, gradgradcheck

from tests.tests_custom.ops.cases import DEVICES, TYPES, layouts, needs_built, shapes
from custom.ops.func import AddMatrix, add_matrix, add_matrix_reference

built = needs_built("add_matrix")


@built
class TestValues(unittest.TestCase):
    """Every type, layout and shape."""

    def test_equal_to_torch(self):
        for device, (dtype, tolerance) in itertools.product(DEVICES, TYPES.items()):
            for shape in [(), (0,), (5,), (3, 4, 5), *shapes(2)]:
                for (name, a), (other, b) in itertools.product(layouts(shape, dtype, device), repeat=2):
                    with self.subTest(device=device, dtype=dtype, shape=shape, layouts=(name, other)):
                        total = add_matrix(a, b)
                        torch.testing.assert_close(total, add_matrix_reference(a, b), rtol=tolerance, atol=tolerance)

    def test_not_finite(self):
        a = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
        b = torch.tensor([1.0, -torch.inf, 1.0, torch.inf])
        torch.testing.assert_close(add_matrix(a, b), a + b, equal_nan=True)

    def test_threads(self):
        a, b = torch.randn(100, 1000), torch.randn(100, 1000)
        results = []
        threads = [threading.Thread(target=lambda: results.append(add_matrix(a, b))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertTrue(all(torch.equal(result, a + b) for result in results))


@built
class TestGradients(unittest.TestCase):
    """First and second, and what torch itself checks of an operator."""

    def make(self, device, dtype=torch.float64, **keys):
        return [torch.randn(3, 5, dtype=dtype, device=device, requires_grad=True, **keys) for _ in range(2)]

    def test_gradcheck(self):
        for device in DEVICES:
            self.assertTrue(gradcheck(add_matrix, self.make(device)))
            self.assertTrue(gradgradcheck(add_matrix, self.make(device)))

    def test_each_side_has_a_gradient_of_its_own(self):
        a, b = self.make("cpu")
        add_matrix(a, b).sum().backward()
        self.assertNotEqual(a.grad.data_ptr(), b.grad.data_ptr())
        a, b = self.make("cpu")
        add_matrix(a, b.detach()).sum().backward()
        self.assertEqual((a.grad.unique().tolist(), b.grad), ([1.0], None))

    def test_opcheck(self):
        for device in DEVICES:
            a, b = self.make(device)
            torch.library.opcheck(torch.ops.project_ops.add_matrix.default, (a, b))
            torch.library.opcheck(torch.ops.project_ops.add_matrix.default, (a.detach().t(), b.detach().t()))
            torch.library.opcheck(torch.ops.project_ops.add_matrix_backward.default, (a,))


@built
class TestInTorch(unittest.TestCase):
    """Compile, vmap, autocast, pickle, graphs and streams."""

    def test_compile(self):
        compiled = torch.compile(lambda a, b: add_matrix(a, b * 2).relu(), fullgraph=True)
        a, b = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
        torch.testing.assert_close(compiled(a, b), (a + b * 2).relu())
        compiled(a, b).sum().backward()
        torch.testing.assert_close(a.grad, (a + b * 2 > 0).float())

    def test_vmap(self):
        a, b = torch.randn(7, 4, 5), torch.randn(5, 4)
        torch.testing.assert_close(torch.vmap(add_matrix, in_dims=(0, None))(a, b.t()), a + b.t())
        torch.testing.assert_close(torch.vmap(add_matrix, in_dims=(1, 0))(a, a.movedim(1, 0)), (a + a).movedim(1, 0))

    def test_autocast(self):
        for device in DEVICES:
            lower = torch.bfloat16 if device == "cpu" else torch.float16
            a, b = torch.randn(3, device=device, requires_grad=True), torch.randn(3, device=device).to(lower)
            with torch.autocast(device, lower):
                total = add_matrix(a, b)
            self.assertEqual(total.dtype, lower)
            total.sum().backward()
            self.assertEqual(a.grad.dtype, torch.float32)

    def test_pickle(self):
        file = io.BytesIO()
        torch.save(AddMatrix(), file)
        file.seek(0)
        a, b = torch.randn(3), torch.randn(3)
        for module in (torch.load(file, weights_only=False), copy.deepcopy(AddMatrix())):
            torch.testing.assert_close(module(a, b), a + b)

    @unittest.skipUnless(torch.cuda.is_available(), "no GPU")
    def test_streams_and_graphs(self):
        a, b = torch.randn(1000, device="cuda"), torch.randn(1000, device="cuda")
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10_000_000)
            late = a * 2
            total = add_matrix(late, b)
        stream.synchronize()
        torch.testing.assert_close(total, a * 2 + b)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            total = add_matrix(a, b)
        a.fill_(3.0)
        graph.replay()
        torch.testing.assert_close(total, 3 + b)


class TestBadInput(unittest.TestCase):
    """An error that names both sides, built or not."""

    def test_they_differ(self):
        for a, b, message in (
            (torch.zeros(2, 3), torch.zeros(3), r"found a \(2, 3\) and b \(3,\)"),
            (torch.zeros(2), torch.zeros(2).double(), "found a of torch.float32 and b of torch.float64"),
            (torch.zeros(2), torch.zeros(2, device="meta"), "found a on cpu and b on meta"),
            (torch.zeros(2).long(), torch.zeros(2).long(), "expected floating-point tensors, found a of torch.int64"),
        ):
            with self.assertRaisesRegex(ValueError, f"add_matrix: .*{message}"):
                add_matrix(a, b, fallback=True)

    @built
    def test_the_operator_itself_checks_too(self):
        with self.assertRaisesRegex(RuntimeError, r"found \(2, 3\) of type Float .* and \(3\) of type Float"):
            torch.ops.project_ops.add_matrix(torch.zeros(2, 3), torch.zeros(3))
        with self.assertRaisesRegex(RuntimeError, "expected floating-point tensors, found .*Long"):
            torch.ops.project_ops.add_matrix(torch.zeros(2).long(), torch.zeros(2).long())

    @built
    def test_more_than_32_bits_count(self):
        huge = torch.empty(2**31 + 8, dtype=torch.float16, device="meta")
        self.assertEqual(add_matrix(huge, huge).shape, huge.shape)
        with self.assertRaisesRegex(ValueError, r"found a \(2147483656,\) and b \(1,\)"):
            add_matrix(huge, torch.empty(1, dtype=torch.float16, device="meta"))
