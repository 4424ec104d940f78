"""Keys of your own: the section ``user``, typed by a dataclass in the project's package."""

import json
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

COMMON = Path(__file__).parents[3] / "common"
# Each command line of the list in argv: its exit code, what it prints, and whether torch was imported.
PROGRAM = """
import contextlib, io, json, sys
from common.config import command, load_config

sys.argv[0] = "train.py"
answers = []
for argv in json.loads(sys.argv[1]):
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            with command():
                print(load_config(argv).user)
        except SystemExit as end:
            code = end.code
    answers.append([code, out.getvalue(), "torch" in sys.modules])
print(json.dumps(answers))
"""
USER = '''
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from common.config.schema import Positive


@dataclass(frozen=True)
class Noise:
    """What is added to the images."""

    sigma: float = 0.5
    """Standard deviation."""


@dataclass(frozen=True)
class User:
    """Keys of this project."""

    tau: float
    """Temperature of the softmax."""
    steps: Positive | None = None
    kind: Literal["a", "b"] = "a"
    sizes: list[int] = field(default_factory=list)
    noise: Noise = field(default_factory=Noise)

    def __post_init__(self):
        if self.tau > 100:
            raise ValueError("tau is too hot")
'''


class TestUserKeys(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "common").symlink_to(COMMON)
        (self.folder / "mine").mkdir()
        (self.folder / "mine" / "__init__.py").write_text("import torch\n")

    def package(self, text):
        (self.folder / "mine" / "user.py").write_text(text)

    def answers(self, *argvs, text=None):
        """Return the exit code and the output of each command line, all without torch."""
        if text is not None:
            (self.folder / "a.yaml").write_text(textwrap.dedent(text))
            argvs = [["--config", "a.yaml", *argv] for argv in argvs or [[]]]
        command = [sys.executable, "-c", PROGRAM, json.dumps(argvs)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        answers = json.loads(done.stdout)
        self.assertFalse(any(torch for _, _, torch in answers))
        return [(code, said.removeprefix("train.py: error: ").rstrip("\n")) for code, said, _ in answers]

    def test_typed_values(self):
        self.package(USER)
        shown = "User(tau={}, steps={}, kind={!r}, sizes={}, noise=Noise(sigma={}))"
        found = self.answers(
            [],
            ["--user.steps=3", "--user.noise.sigma", "2", "--user.sizes=[4]", "--user.tau=1e-2"],
            text="user: {tau: 3, sizes: [1, 2], kind: b, noise: {sigma: 1}}",
        )
        self.assertEqual(found[0], (0, shown.format(3.0, None, "b", [1, 2], 1.0)))
        self.assertEqual(found[1], (0, shown.format(0.01, 3, "b", [4], 2.0)))
        self.assertEqual(self.answers(["--user.tau=1"]), [(0, shown.format(1.0, None, "a", [], 0.5))])

    def test_mistakes_are_one_line(self):
        self.package(USER)
        cases = {
            "name: x\nuser:\n  tau: 1\n  size: 3": "a.yaml:4: user.size: unknown key, did you mean 'user.sizes'?",
            "user: {tau: x}": "a.yaml:1: user.tau: expected a number, found 'x'",
            "user: {tau: 1, steps: 0}": "user.steps: expected a whole number from 1 to 10^9, or null, found 0",
            "user: {tau: 1, kind: c}": "a.yaml:1: user.kind: expected one of a, b, found 'c'",
            "user: {tau: 1, sizes: [x]}": "a.yaml:1: user.sizes: expected a value of type list[int], found ['x']",
            "user: {tau: 1, noise: {sigm: 1}}": "user.noise.sigm: unknown key, did you mean 'user.noise.sigma'?",
            "user: {tau: 1, noise: 3}": "a.yaml:1: user.noise: expected keys below it, found 3",
            "user: {tau: 101}": "a.yaml:1: user: tau is too hot",
            "user: 3": "a.yaml:1: user: expected keys below it, found 3",
            "user:\n  kind: a": "a.yaml:1: user.tau: is missing, and has no default",
            "name: x": "a.yaml: user.tau: is missing, and has no default",
            "tau: 3": "a.yaml:1: tau: unknown key, did you mean 'user.tau'?",
        }
        for text, message in cases.items():
            with self.subTest(text):
                ((code, said),) = self.answers(text=text)
                self.assertEqual(code, 2)
                self.assertTrue(said.endswith(message) and "\n" not in said, said)
        flags = self.answers(["--user.tau=x"], ["--user.tau=1", "--user.kinds=a"], ["--user.kind=a"])
        messages = ["--user.tau: expected a number, found 'x'"]
        messages += ["--user.kinds: unknown key, did you mean '--user.kind'?"]
        messages += ["--user.tau: is missing, and has no default"]
        self.assertEqual(flags, [(2, message) for message in messages])

    def test_help_and_the_whole_config(self):
        self.package(USER)
        (helped, text), (_, printed) = self.answers(["--help"], ["--user.tau=2", "--print_config"])
        self.assertEqual(helped, 0)
        parts = "Keys of this project:", "--user.tau TAU", "softmax. (a number; required)", "--user.noise.sigma"
        for part in parts:
            self.assertIn(part, text)
        self.assertRegex(printed, r"\nuser:\n  tau: 2.0( +# flag)?\n  steps: null\n  kind: a\n")
        self.assertEqual(self.answers(text=printed)[0][0], 0)

    def test_a_base_file_may_set_them(self):
        self.package(USER)
        (self.folder / "base.yaml").write_text("user: {tau: 1, noise: {sigma: 3}}")
        ((_, said),) = self.answers(text="base: base.yaml\nuser: {tau: 2}")
        self.assertIn("tau=2.0, steps=None, kind='a', sizes=[], noise=Noise(sigma=3.0)", said)

    def test_without_a_dataclass_none_may_be_set(self):
        known = "unknown key, known: none; a dataclass User in user.py of your package may name some"
        self.assertEqual(self.answers(text="user: {tau: 3}"), [(2, f"a.yaml:1: user.tau: {known}")])
        self.assertEqual(self.answers(["--user.tau=3"], []), [(2, f"--user.tau: {known}"), (0, "NoKeys()")])
        self.assertEqual(self.answers(text="user: {}"), [(0, "NoKeys()")])
        self.package("User = 3")
        ((code, said),) = self.answers([])
        self.assertEqual((code, said.rpartition("/")[2]), (2, "user.py: expected a dataclass User, found 3"))

    def test_it_is_the_class_that_the_package_has(self):
        self.package("from dataclasses import dataclass\n\n@dataclass\nclass User:\n    tau: float = 1.0\n")
        code = "import pickle; from common.config import Config, load_config; config = load_config([])\n"
        code += "from mine.user import User; copy = pickle.loads(pickle.dumps(config))\n"
        code += "print(type(config.user) is User, copy == config, Config() == config)"
        done = subprocess.run([sys.executable, "-c", code], cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(done.stdout, "True True True\n", done.stderr)


if __name__ == "__main__":
    unittest.main()
