"""Configs as Python files."""

from tests.tests_common.config import test_load


class TestPythonFiles(test_load.ConfigTest):
    def test_public_plain_values(self):
        config = self.load(
            """
            from __future__ import annotations
            import math
            from pathlib import Path
            _width = 2 ** 3
            def name_of(x): return x
            class Thing: pass
            root = Path("x")
            optim = {"lr": 1e-4, "args": {"betas": (0.9, 0.98)}}
            model = dict(type="MLP", hidden=[_width] * 2, names={0: "cat"}, text="1e-4")
            """,
            "--model.depth=3",
            name="a.py",
        )
        model = {"type": "MLP", "hidden": [8, 8], "names": {0: "cat"}, "text": "1e-4", "depth": 3}
        self.assertEqual((config.optim.lr, config.optim.args), (1e-4, {"betas": [0.9, 0.98]}))
        self.assertEqual(config.model, model)

    def test_mistakes(self):
        cases = {
            "x = 1\nraise ValueError('a\\nb')": "a.py:2: ValueError: a b",
            "def f():\n    return {}['k']\n\nf()": "a.py:2: KeyError: 'k'",
            "import no_such_module": "a.py:1: ModuleNotFoundError: No module named 'no_such_module'",
            "\n\ndef f(:": "a.py:3: SyntaxError: invalid syntax",
            "exit(0)": "a.py:1: SystemExit: 0",
            "\0": "a.py: ",
            "model = {'a': object()}": "a.py: RepresenterError: ('cannot represent an object', <object",
            "model = print": "a.py: RepresenterError",
            "width = 3": "a.py: width: unknown key, known: ",
            "optim = {'lrr': 3}": "a.py: optim.lrr: unknown key, did you mean 'optim.lr'?",
            "optim = {'lr': None}": "a.py: optim.lr: expected a number above 0, found None",
            "model = {}\nmodel['a'] = model": "recursion",
        }
        for text, message in cases.items():
            with self.subTest(text):
                self.assertIn(message, self.refused_file(text, name="a.py"))
