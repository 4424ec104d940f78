"""The plain loop: it learns, and it resumes bit for bit after each SIGKILL. KILLS=20 in front kills it more often."""

import os
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests import FULL
from tests.compare import differences, metrics_of

PROJECT = Path(__file__).parents[2]
KILLS = int(os.environ.get("KILLS", 3 if FULL else 1))


class TestPlainLoop(unittest.TestCase):
    """Whole commands, in a folder of their own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_loop(self, name, kill_after=None):
        """Run the loop to its end, or kill it so many seconds after its first line of an epoch."""
        flags = ["--gpu_ids", "-1", "--resume", "auto", "--name", name, "--dir.expr_dir", str(self.folder)]
        command = [sys.executable, "plain_loop.py", "--config", "configs/default.yaml", *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True) as process:
            if kill_after is None:
                said = process.communicate()[1]
                self.assertEqual(process.returncode, 0, said)
                return
            next((line for line in process.stderr if "| val |" in line), None)
            try:
                process.wait(kill_after)
            except subprocess.TimeoutExpired:
                process.kill()

    def test_learns_and_survives(self):
        self.run_loop("whole")
        accuracies = [line["accuracy"] for line in metrics_of(self.folder / "whole") if line["split"] == "val"]
        self.assertGreaterEqual(max(accuracies), 0.97)
        draw = random.Random(0)
        for _ in range(KILLS):
            self.run_loop("killed", kill_after=draw.uniform(0.0, 0.6))
        self.run_loop("killed")
        self.assertEqual(list(differences(self.folder / "whole", self.folder / "killed")), [])

    def test_what_it_has_no_lines_for_is_refused(self):
        command = [sys.executable, "plain_loop.py", "--config", "configs/default.yaml", "--trainer.accumulate", "4"]
        args = [*command, "--gpu_ids", "-1", "--dir.expr_dir", str(self.folder)]
        done = subprocess.run(args, cwd=PROJECT, capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("error: trainer.accumulate: this loop has no lines for it, expected 1, found 4", done.stderr)

    def test_it_is_short(self):
        self.assertLessEqual(len((PROJECT / "plain_loop.py").read_text().splitlines()), 80)


if __name__ == "__main__":
    unittest.main()
