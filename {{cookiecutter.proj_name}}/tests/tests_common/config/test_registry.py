"""Names in a config → classes."""

import sys
import tempfile
import unittest
from pathlib import Path

import torch

from common.config.errors import UserError
from common.config.registry import LOSS_REGISTRY, Registry, import_modules


class TestRegistry(unittest.TestCase):
    """Registering and building."""

    def setUp(self):
        self.registry = Registry("model")

        @self.registry.register()
        class Net:
            def __init__(self, width: int = 3, rate: float = 0.5, name: str = "a", deep: bool = False, *, extra=None):
                if width < 1:
                    raise ValueError("width must be positive")
                self.width, self.rate, self.extra = width, rate, extra
                self.memory = torch.empty(width)

        self.Net = Net

    def test_builds_by_name(self):
        section = {"type": "Net", "width": 7, "rate": 1}
        net = self.registry.build(section, "model", extra=2)
        self.assertEqual((type(net), net.width, net.rate, net.extra), (self.Net, 7, 1, 2))
        self.assertEqual(section, {"type": "Net", "width": 7, "rate": 1})

    def test_another_name(self):
        self.registry.register("net2")(dict)
        self.assertEqual(self.registry.names(), ["Net", "net2"])

    def test_a_name_is_taken_once(self):
        with self.assertRaisesRegex(ValueError, "two classes are registered as model 'Net'"):
            self.registry.register("Net")(dict)

    def test_mistakes(self):
        for section, message in (
            (None, "model: expected a section with a 'type', found None"),
            ({"width": 1}, "model: expected a section with a 'type'"),
            ({"type": "Nett"}, "model.type: unknown model 'Nett', did you mean 'Net'"),
            ({"type": "Other"}, "model.type: unknown model 'Other', known: Net"),
            ({"type": "Net", "widht": 1}, r"model: .*'widht'; the signature is Net\(width: int = 3, rate: float"),
            ({"type": "Net", "width": "3"}, "'width' must be of type int, found '3'"),
            ({"type": "Net", "width": True}, "'width' must be of type int, found True"),
            ({"type": "Net", "rate": "fast"}, "'rate' must be of type float, found 'fast'"),
            ({"type": "Net", "rate": float("nan")}, "'rate' must be of type float, found nan"),
            ({"type": "Net", "name": 3}, "'name' must be of type str, found 3"),
            ({"type": "Net", "deep": 1}, "'deep' must be of type bool, found 1"),
            ({"type": "Net", "width": 0}, "model: Net: width must be positive"),
            ({"type": "Net", "width": 10**15}, "model: Net: .*can't allocate memory"),
            ({"type": "Net", "width": 10**18}, "model: Net: .*"),
        ):
            with self.subTest(section=section), self.assertRaisesRegex(UserError, message):
                self.registry.build(section, "model")

    def test_torchs_own(self):
        self.assertEqual(LOSS_REGISTRY.build({"type": "HuberLoss", "delta": 2.0}, "loss.h").delta, 2.0)
        for imported in ("Module", "Tensor", "Callable"):
            with self.assertRaises(UserError):
                LOSS_REGISTRY.get(imported)

    def test_a_new_file_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "found_by_itself"
            package.mkdir()
            (package / "__init__.py").touch()
            (package / "some_model.py").write_text("IMPORTED = True\n")
            sys.path.insert(0, folder)
            self.addCleanup(sys.path.remove, folder)
            import_modules("found_by_itself")
        self.assertTrue(sys.modules["found_by_itself.some_model"].IMPORTED)
