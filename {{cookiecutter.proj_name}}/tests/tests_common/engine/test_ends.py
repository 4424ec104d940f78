"""What becomes of the others when one of two processes ends, hangs, or has less data."""

import tempfile
import unittest
from pathlib import Path

from tests import slow
from tests.compare import differences
from tests.tests_common.processes import run_script

# Rank 1 meets its end in the first of several tries, or in the first two.
ENDING = """
    import os, signal, sys, time
    from torch.utils.data import DataLoader
    from common.data.loader import collate
    from common.run.distributed import get_rank
    from common.config.console import command
    from common.run.launch import launch
    from tests.tests_common.engine import toy
    from tests.tests_common.processes import RegressionTrainer, make_config

    folder, name, how, nproc = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]) or None
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))

    class Ending(RegressionTrainer):
        def __init__(self, config, session):
            super().__init__(config, session)
            if how == "uneven":
                data = toy.make_data(12 if get_rank() else 24, self.model.first.weight.dtype)
                self.register_loader(DataLoader(data, 3, collate_fn=collate))

        def after_train_step(self, *_):
            if get_rank() == 1 and self.total_iterations == 17 + 11 * restarts and restarts < 2:
                while how == "kill" and not (self.session.folder / "checkpoints" / "latest.pt").exists():
                    time.sleep(0.01)
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if how == "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if how == "raise":
                    raise ZeroDivisionError("a mistake of mine")

    config = make_config(folder, name, 2, 1, 10, dist={"nproc": nproc, "timeout": 10 if how == "stop" else 60})
    with command(), launch(config) as session:
        Ending(config, session).run()
"""


@slow
class TestEnds(unittest.TestCase):
    """The processes are started by the script itself; were one of them left, the script would not return."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def end(self, how, code=1):
        done = run_script(self.folder, ENDING, 1, str(self.folder), "run", how, "2", check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done.stderr

    def test_killed(self):
        said = self.end("kill")
        self.assertEqual(said.count("was ended by SIGKILL"), 1)
        self.assertIn("rank 0: error: another process has ended", said)
        self.assertNotIn("Traceback", said)

    def test_raises(self):
        said = self.end("raise")
        self.assertEqual(said.count("ZeroDivisionError: a mistake of mine"), 1)
        self.assertIn("rank 1: ZeroDivisionError", said)
        self.assertLess(said.index("a mistake of mine"), said.index("rank 0: error: another process has ended"))

    def test_stopped(self):
        self.assertIn("rank 0: error: another process did not answer for dist.timeout seconds", self.end("stop"))

    def test_fewer_batches(self):
        self.assertIn("error: dataset.train: the processes have 8, 4 batches", self.end("uneven", code=2))

    def test_nobody_ends(self):
        self.end("not at all", code=0)

    def test_torchrun_starts_them_again(self):
        for name, how in (("whole", "not at all"), ("run", "kill")):
            done = run_script(self.folder, ENDING, 2, str(self.folder), name, how, "0", restarts=3)
            self.assertEqual(done.stderr.count("INFO    | experiment"), 3 if how == "kill" else 1, done.stderr)
            self.assertEqual("resuming from" in done.stderr, how == "kill")
        self.assertEqual(list(differences(self.folder / "whole", self.folder / "run")), [])


if __name__ == "__main__":
    unittest.main()
