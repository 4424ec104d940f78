"""Consoles that break, while a run lasts and a signal ends it."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
from contextlib import suppress
from pathlib import Path

from common.state.file import read_checkpoint
from tests import campaign_of
from tests.compare import differences

PROJECT = Path(__file__).parents[3]

# A run that talks, and waits after its 12th step for the signal that ends it.
SCRIPT = """
    import sys, time, warnings
    from dataclasses import replace
    from pathlib import Path
    from common.config.schema import DistConfig
    from common.config.console import command
    from common.run.launch import launch
    from tests.tests_common.engine import rich

    folder, name, ranks, waits = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "wait"

    class Talking(rich.RichEpochTrainer):
        def after_train_step(self, *_):
            print("größer", "x" * 5000)
            warnings.warn("größer", stacklevel=1)
            if waits and self.total_iterations == 12:
                Path(folder, f"{name}.there").touch()
                while self.stop.request.number is None:
                    time.sleep(0.01)
                time.sleep(0.1)  # the signal of the other process

    keys = {"iter_save_checkpoint": 0, "iter_loss": 1, "epoch": 2}
    config = rich.make_config(progress=keys, dist=DistConfig(nproc=ranks, timeout=60), name=name, resume="auto")
    config = replace(config, dir=replace(config.dir, expr_dir=folder))
    with command(), launch(config) as session:
        Talking(config, session).run()
"""
BREAKS = ("dies", "closed", "full", "ascii", "stuck")
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75}
CASES = list(itertools.product(BREAKS, SIGNALS, (1, 2)))


class TestConsoles(unittest.TestCase):
    """The exit code is right, the state saved, and the rest as if nothing had happened."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        (self.folder / "script.py").write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
        # Where the tests were started with nohup, it would be ignored.
        self.addCleanup(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL))

    def run_script(self, name, ranks, waits="on", broken=None, number=None):
        """Return the exit code of a run, which a signal to its group ends if a number is given."""
        command = [sys.executable, str(self.folder / "script.py"), str(self.folder), name, str(ranks), waits]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        keys = {"start_new_session": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if broken == "closed":
            keys |= {"stdout": None, "stderr": None, "preexec_fn": lambda: (os.close(1), os.close(2))}
        if broken in ("dies", "stuck"):
            keys |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        if broken == "ascii":
            environment |= {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C", "PYTHONUTF8": "0"}
        with open("/dev/full", "wb") as full:
            keys |= {"stdout": full, "stderr": full} if broken == "full" else {}
            process = subprocess.Popen(command, env=environment, **keys)
        try:
            while number and not (self.folder / f"{name}.there").exists() and process.poll() is None:
                if broken == "dies" and process.stdout.closed is False and (self.folder / name).exists():
                    process.stdout.close()
                time.sleep(0.01)
            if number and process.poll() is None:
                os.killpg(process.pid, number)
            return process.wait(120)
        finally:
            if process.stdout:
                process.stdout.close()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def test_ends_well(self):
        whole = {}
        for i, (broken, number, ranks) in enumerate(campaign_of(CASES, 29)):
            with self.subTest(broken=broken, signal=number, ranks=ranks):
                if ranks not in whole:
                    whole[ranks] = self.folder / f"whole{ranks}"
                    self.assertEqual(self.run_script(whole[ranks].name, ranks), 0)
                code = self.run_script(f"cut{i}", ranks, "wait", broken, number)
                self.assertEqual(code, SIGNALS[number])
                saved = read_checkpoint(self.folder / f"cut{i}" / "checkpoints" / "latest.pt")
                self.assertGreaterEqual(saved["trainer"]["total_iterations"], 12)
                self.assertEqual(self.run_script(f"cut{i}", ranks, broken=broken), 0)
                self.assertEqual(list(differences(whole[ranks], self.folder / f"cut{i}")), [])

    def test_nothing_to_read_there_before_torch_is_loaded(self):
        for flags, code in ((["--no.such", "1"], 2), (["--print_config"], 0)):
            with self.subTest(flags), open("/dev/full", "wb") as full:
                command = [sys.executable, "train.py", *flags]
                self.assertEqual(subprocess.call(command, cwd=PROJECT, stdout=full, stderr=full), code)


if __name__ == "__main__":
    unittest.main()
