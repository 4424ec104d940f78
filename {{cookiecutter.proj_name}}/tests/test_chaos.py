"""A small share of what ``python -m tests.chaos`` does."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

from tests import slow

PROJECT = Path(__file__).parents[1]


class TestChaos(unittest.TestCase):
    """Runs that are killed, or ended by signals and exceptions, end equal to those that are not."""

    def check(self, *words):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.chaos", *words]
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("4 kills, 0 differences", done.stdout)

    def test_kills(self):
        self.check("--kills", "4", "--set_ups", "1", "--seed", "3")

    @slow
    def test_signals_and_exceptions(self):
        self.check("--kills", "4", "--set_ups", "1", "--seed", "4", "--gently")
