"""One run a folder: by processes that start at once, die, and lie on other machines."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

from loguru import logger

from common.config.errors import UserError
from common.state.experiment import leave_experiment, open_experiment
from tests import campaign_of
from tests.tests_common.engine import toy
from tests.tests_common.processes import PROJECT

# A run of one or two ranks that waits for a line on stdin, so that it lasts while others try.
RUN = """
    import sys
    from common.config.console import command
    from common.run.launch import launch
    from tests.tests_common.processes import RegressionTrainer, make_config

    folder, name, resume, nproc = sys.argv[1:5]
    config = make_config(folder, name, 2, 1, 2, resume=resume or None, dist={"nproc": int(nproc) or None})
    with command(), launch(config) as session:
        if nproc == "0":
            print("holds", flush=True)
            sys.stdin.readline()
        RegressionTrainer(config, session).run()
"""
PAIRS = [(resume, nproc) for resume in ("", "auto") for nproc in ("2",) + ("0",) * 9] * 2


class OneRunTest(unittest.TestCase):
    """Each test has a folder of experiments."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        leave_experiment()  # of another test in this process
        self.addCleanup(leave_experiment)
        self.root = Path(temporary.name)
        config = toy.make_config(name="run")
        self.config = replace(config, dir=replace(config.dir, expr_dir=str(self.root)))

    def start(self, name, resume="", nproc="0"):
        (self.root / "run.py").write_text(textwrap.dedent(RUN))
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(self.root / "run.py"), str(self.root), name, resume, nproc]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process


class TestPairs(OneRunTest):
    """Two starts of one name at once: exactly one runs."""

    def test_exactly_one_runs(self):
        for i, (resume, nproc) in enumerate(campaign_of(PAIRS, 40)):
            with self.subTest(pair=i, resume=resume, nproc=nproc):
                pair = [self.start(f"pair{i}", resume, nproc) for _ in range(2)]
                for process in pair:
                    process.stdin.close()
                    process.stdin = None
                said = [process.communicate()[1] for process in pair]
                codes = sorted(process.returncode for process in pair)
                # One that starts once the other has ended finds nothing left to do, or an experiment of that name.
                refused = "in use by pid" in "".join(said) or "is not overwritten" in "".join(said)
                self.assertTrue(codes == [0, 2] and refused or resume == "auto" and codes == [0, 0], said)
                for process, text in zip(pair, said, strict=True):
                    self.assertEqual(text.count("error: "), process.returncode == 2, text)  # once, whatever the ranks
                lines = map(json.loads, (self.root / f"pair{i}" / "metrics.jsonl").read_text().splitlines())
                steps = [line["step"] for line in lines if line["split"] == "train"]
                self.assertEqual(steps, list(range(1, len(steps) + 1)))


class TestHold(OneRunTest):
    """Who holds a folder, until when, and what others are told."""

    def open(self, **changes):
        return open_experiment(replace(self.config, **changes))

    def test_it_names_its_holder_and_dies_with_it(self):
        process = self.start("run")
        self.assertEqual(process.stdout.readline(), "holds\n")
        for resume in (None, "auto"):
            with self.assertRaisesRegex(UserError, rf"run is in use by pid {process.pid} on \S+ since \d{{4}}.*--name"):
                self.open(resume=resume)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.assertEqual(self.open(resume="auto"), (self.root / "run", None))

    def test_it_is_held_by_this_process_alone_and_for_one_run(self):
        for name in ("other", "run", "run"):
            self.open(name=name)
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.write(ready[1], b"!")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        leave_experiment()
        for name in ("run", "other"):
            self.assertEqual(self.start(name).stdout.readline(), "holds\n")
        os.write(go[1], b"!")
        os.waitpid(child, 0)

    def test_a_file_system_without_locks(self):
        lines = []
        handler = logger.add(lines.append, format="{message}")
        self.addCleanup(logger.remove, handler)
        for number in (errno.ENOSYS, errno.ENOLCK):
            with mock.patch("fcntl.flock", side_effect=OSError(number, "no locks")):
                self.open()
                self.assertIn("file system without locks (no locks); if this run is killed", lines[-1])
                lock = self.root / "run" / "run.lock.soft"
                leave_experiment()
                self.assertFalse(lock.exists())
                lock.write_text("1234\nanother_host\n")  # as a run leaves it that was killed there
                lock.with_suffix("").write_text("pid 1234 on another_host since yesterday")
                with self.assertRaisesRegex(UserError, f"pid 1234 on another_host since yesterday: .* delete {lock}"):
                    self.open(resume="auto")
                lock.unlink()
                self.open(resume="auto")

    @unittest.skipUnless(os.geteuid() == 0, "needs a second user")
    def test_a_folder_of_another_user(self):
        (self.root / "run").mkdir()
        self.root.chmod(0o755)
        said, told = os.pipe()
        child = os.fork()
        if not child:
            os.seteuid(65534)
            try:
                from common.run.launch import _open_on_rank_0

                _open_on_rank_0(open_experiment, self.config)
            except BaseException as error:
                os.write(told, f"{type(error).__name__}: {error}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        text = os.read(said, 1000).decode()
        self.assertRegex(text, "UserError: .*/run: cannot be written to: Permission denied; --name and --dir.expr_dir")
