"""What ``from common import ...`` gives."""

import ast
import subprocess
import sys
import unittest
from pathlib import Path

import common
from common.config.registry import has_room

COMMON = Path(common.__file__).parent


def run_python(script, folder=COMMON.parent):
    """Return a finished process that ran a script in a project."""
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)


class TestPublicNames(unittest.TestCase):
    def test_type_checkers_see_the_same_names(self):
        tree = ast.parse((COMMON / "__init__.py").read_text(encoding="utf-8"))
        block = next(node for node in tree.body if isinstance(node, ast.If))
        found = {alias.name: node.module for node in block.body for alias in node.names}
        self.assertEqual(found, common._HOMES)

    def test_each_resolves(self):
        for name, module in common._HOMES.items():
            if not has_room(module.removeprefix("common.")):
                continue
            with self.subTest(name):
                self.assertIsNotNone(getattr(common, name))
                self.assertIn(name, dir(common))
        if has_room("diagnose"):
            self.assertEqual(common.activations.__name__, "common.diagnose.activations")

    def test_no_other_name(self):
        with self.assertRaisesRegex(AttributeError, "module 'common' has no attribute 'Trainner'"):
            common.Trainner  # noqa: B018
        with self.assertRaisesRegex(ImportError, "cannot import name 'Trainner' from 'common'"):
            from common import Trainner  # noqa: F401

    def test_the_package_alone_imports_no_torch(self):
        done = run_python("import sys, common; print({'torch', 'yaml', 'jsonargparse'} & set(sys.modules))")
        self.assertEqual((done.stdout, done.stderr), ("set()\n", ""))


if __name__ == "__main__":
    unittest.main()
