"""A small share of what ``python -m tests.chaos`` does."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

from tests import FULL, slow

PROJECT = Path(__file__).parents[1]


class TestChaos(unittest.TestCase):
    """Runs that are killed, or ended by signals and exceptions, end equal to those that are not."""

    def check(self, kills, *args):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.chaos", "--kills", str(kills), "--set_ups", "1", *args]
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"{kills} kills, 0 differences", done.stdout)

    def test_kills(self):
        self.check(4 if FULL else 2, "--seed", "3")

    @slow
    def test_signals_and_exceptions(self):
        self.check(4, "--seed", "4", "--gently")
