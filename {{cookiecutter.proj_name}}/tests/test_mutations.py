"""A small share of what ``python -m tests.mutations`` does."""

import os
import subprocess
import sys
import unittest
from pathlib import Path

from tests import CAMPAIGN, FULL

PROJECT = Path(__file__).parents[1]


@unittest.skipUnless(hasattr(os, "fork"), "needs fork")
class TestMutations(unittest.TestCase):
    def test_no_traceback(self):
        loaded, trained = ("2000", "250") if CAMPAIGN else ("400", "30") if FULL else ("100", "8")
        command = [sys.executable, "-m", "tests.mutations", "--loaded", loaded, "--trained", trained]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn(f"{trained} trained, 0 tracebacks in all", done.stdout)
