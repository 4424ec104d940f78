"""Signals: noted, obeyed later, and passed over by helpers."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

from common.config.console import command
from common.run.signals import (
    Interrupted,
    StopRequest,
    end_at_once,
    end_with_parent,
    handling,
    ignore_child_exits,
)
from tests import slow

PROJECT = Path(__file__).parents[3]


class TestHandling(unittest.TestCase):
    """Inside the with, in the main thread, in this process."""

    def test_noted_and_given_back(self):
        request, before = StopRequest(), signal.getsignal(signal.SIGTERM)
        with handling(request.note):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual(request.number, signal.SIGUSR1)
        self.assertIs(signal.getsignal(signal.SIGTERM), before)

    def test_codes(self):
        # Where the tests were started with nohup, it would be ignored.
        self.addCleanup(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_DFL))
        for number, code in ((signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)):
            with self.assertRaises(SystemExit) as caught, handling(end_at_once):
                os.kill(os.getpid(), number)
            self.assertEqual((caught.exception.code, caught.exception.name), (code, signal.Signals(number).name))
            self.assertIsInstance(caught.exception, Interrupted)

    def test_nohup_stays(self):
        code = "from common.run.signals import *; from signal import raise_signal, SIGHUP\n"
        code += "with handling(end_at_once): raise_signal(SIGHUP)\nprint('still here')"
        done = subprocess.run(["nohup", sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (0, "still here\n"), done.stderr)

    def test_another_thread_has_no_signals(self):
        seen = []

        def inside():
            with handling(end_at_once):
                seen.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        self.assertEqual(seen, [signal.getsignal(signal.SIGTERM)])

    def test_a_second_ctrl_c_leaves_at_once_but_not_a_launchers_echo(self):
        request = StopRequest()
        with mock.patch("os._exit") as leave, command(), handling(request.note):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            self.assertFalse(leave.called)
            with mock.patch("time.monotonic", lambda: request._since + 2):
                os.kill(os.getpid(), signal.SIGINT)
            leave.assert_called_once_with(130)

    def test_a_second_ctrl_c_does_not_end_a_notebook(self):
        request = StopRequest()
        with mock.patch("os._exit") as leave, handling(request.note):
            os.kill(os.getpid(), signal.SIGINT)
            later = mock.patch("time.monotonic", lambda: request._since + 2)
            with self.assertRaises(KeyboardInterrupt), later:
                os.kill(os.getpid(), signal.SIGINT)
            leave.assert_not_called()

    def test_a_forked_helper_passes_over_the_first(self):
        with handling(end_at_once):
            helper = os.fork()
            if helper == 0:
                for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
                    os.kill(os.getpid(), number)
                os.kill(os.getpid(), signal.SIGTERM)  # the second ends it
                os._exit(0)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]), -signal.SIGTERM)

    def test_a_helper_ends_with_its_parent(self):
        ended, told = os.pipe()
        parent = os.fork()
        if parent == 0:
            if os.fork() == 0:
                end_with_parent(signal.SIGKILL)
                os.write(told, b"!")  # the other end of the pipe is closed when this process is gone
                time.sleep(600)
            os.read(ended, 1)
            os._exit(0)
        os.waitpid(parent, 0)
        os.close(told)
        self.assertEqual(os.read(ended, 1), b"")
        os.close(ended)

    def test_where_python_cannot_handle_them(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            child = os.fork()
            if child == 0:
                with handling(lambda number: None), handling(None):
                    os.kill(os.getpid(), number)
                os._exit(0)
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), -number)

    def test_a_dead_helper_is_overlooked(self):
        def report(*_):
            raise RuntimeError("DataLoader worker is killed by signal: Killed")

        before = signal.signal(signal.SIGCHLD, report)
        self.addCleanup(signal.signal, signal.SIGCHLD, before)
        ignore_child_exits()
        os.kill(os.getpid(), signal.SIGCHLD)


class TestProcess(unittest.TestCase):
    """A whole program, with workers, of which every process gets the signal."""

    SCRIPT = """
        import sys, time
        from dataclasses import replace
        from pathlib import Path
        from common.config.console import command
        from common.run.launch import launch
        from tests.tests_common.engine import rich

        class Slow(rich.RichEpochTrainer):
            def after_train_step(self, *_):
                if self.total_iterations == 3:
                    print("ready", flush=True)
                    time.sleep(float(sys.argv[2]))

        config = rich.make_config(worker=2, name="run")
        config = replace(config, dir=replace(config.dir, expr_dir=sys.argv[1]))
        with command(), launch(config) as session:
            Slow(config, session).run()
    """

    def run_and_signal(self, folder, seconds, *numbers):
        """Return the exit code and what was said of a run that gets signals within its fourth step."""
        command = [sys.executable, "-c", textwrap.dedent(self.SCRIPT), folder, seconds]
        keys = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        with subprocess.Popen(command, cwd=PROJECT, env={**os.environ, "OMP_NUM_THREADS": "1"}, **keys) as process:
            self.assertEqual(process.stdout.readline(), "ready\n")
            for number in numbers:
                os.killpg(process.pid, number)
                time.sleep(1.2 if len(numbers) > 1 else 0)
            _, said = process.communicate(timeout=60)
        return process.returncode, said

    def test_saves_after_the_step_and_says_so(self):
        with tempfile.TemporaryDirectory() as folder:
            code, said = self.run_and_signal(folder, "0.3", signal.SIGTERM)
            self.assertEqual(code, 75, said)
            self.assertIn("SIGTERM: saving after this step", said)
            self.assertIn(f"saved after epoch 0 iteration 4; --resume {folder}/run goes on", said)
            self.assertIn("ended by SIGTERM, exit code 75", said.strip().splitlines()[-1])
            self.assertNotIn("Traceback", said)

    @slow
    def test_two_ctrl_c_do_not_wait_for_the_step(self):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            code, said = self.run_and_signal(folder, "60", signal.SIGINT, signal.SIGINT)
            self.assertEqual(code, 130, said)
            self.assertLess(time.monotonic() - began, 50)
