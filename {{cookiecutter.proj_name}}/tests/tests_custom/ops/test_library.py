"""Built and unbuilt, and where new operators come from."""

import subprocess
import sys
import unittest
import warnings
from unittest import mock

import torch

from custom.ops import add_matrix as sum_module
from custom.ops import library, new_op
from custom.ops import scale_shift_relu as fused_module


class TestUnbuilt(unittest.TestCase):
    """One line that says how to build, or the reference with a warning."""

    def setUp(self):
        for module in (sum_module, fused_module):
            patch = mock.patch.object(module, "_BUILT", False)
            patch.start()
            self.addCleanup(patch.stop)

    def test_refuses(self):
        x, one = torch.ones(2, 3), torch.ones(3)
        with self.assertRaisesRegex(RuntimeError, "^add_matrix: not built; build it by: sh scripts/install_ops.sh$"):
            sum_module.add_matrix(x, x)
        with self.assertRaisesRegex(RuntimeError, "^scale_shift_relu: not built; build it by"):
            fused_module.scale_shift_relu(x, one, one)

    def test_falls_back_with_a_warning(self):
        x, one = torch.ones(2, 3), torch.ones(3)
        with self.assertWarnsRegex(UserWarning, "add_matrix: not built; .* reference in plain torch is used"):
            self.assertTrue(torch.equal(sum_module.AddMatrix(fallback=True)(x, x), x + x))
        with self.assertWarns(UserWarning):
            self.assertTrue(torch.equal(fused_module.scale_shift_relu(x, one, one, fallback=True), x + 1))

    def test_warns_once(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.resetwarnings()
            for _ in range(3):
                sum_module.add_matrix(torch.ones(2), torch.ones(2), fallback=True)
        self.assertEqual(len(caught), 1)


class TestNewBesideBuilt(unittest.TestCase):
    """An operator that the library has not got yet does not keep the others from being imported."""

    def test_it_counts_as_unbuilt(self):
        fragment = torch.library.Library(library.NAMESPACE, "FRAGMENT")
        fragment.define("of_the_test(Tensor x) -> Tensor")
        with mock.patch.object(library, "load", return_value=True):
            self.assertTrue(library.has("of_the_test"))
            self.assertFalse(library.has("not_yet"))
        with mock.patch.object(library, "load", return_value=False):
            self.assertFalse(library.has("of_the_test"))


class TestProgram(unittest.TestCase):
    """The demonstration, from anywhere."""

    def test_runs(self):
        command = [sys.executable, sum_module.__file__]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("a + b =", done.stdout)


class TestNewOp(unittest.TestCase):
    """Names that are refused; what is written is built and tested by the template's tests."""

    def test_names(self):
        for name in ("", "MyOp", "my-op", "2nd", "class", "../x", "my op"):
            with self.assertRaisesRegex(ValueError, "expected a name in lower case"):
                new_op.scaffold(name)
        with self.assertRaisesRegex(ValueError, "exists, and is not overwritten"):
            new_op.scaffold("add_matrix")
