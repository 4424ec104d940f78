"""The console and train.log."""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from loguru import logger

from common.log.console import add_log, setup_logger


class Terminal(io.StringIO):
    """A console that says that it is a terminal."""

    def isatty(self):
        return True


class TestLogger(unittest.TestCase):
    """Who hears what."""

    def log(self, rank=0, console=None):
        """Return what console and file hold after one line of each level."""
        console = io.StringIO() if console is None else console
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(console):
            file = Path(folder) / "train.log"
            with mock.patch("common.log.console.get_rank", lambda: rank):
                setup_logger(file)
            for level in ("debug", "info", "Warning", "ERROR"):
                add_log(f"a {level} {{not a field}}", level)
            add_log("in the bar", in_bar=True)
            logger.remove()
            return console.getvalue(), file.read_text() if file.exists() else None

    def test_rank_0(self):
        console, file = self.log()
        self.assertEqual(
            [line.split(" | ")[1].strip() for line in console.splitlines()], ["INFO", "WARNING", "ERROR", "INFO"]
        )
        self.assertEqual(len(file.splitlines()), 5)
        self.assertIn("| a debug {not a field}", file)
        self.assertRegex(file, r"(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| INFO    \| in the bar$")

    def test_other_ranks_are_silent_but_for_errors(self):
        console, file = self.log(rank=3)
        self.assertIsNone(file)
        self.assertRegex(console, r"^rank 3 \| .* \| ERROR   \| a ERROR {not a field}\n$")

    def test_a_terminal_has_the_bar_instead(self):
        console, file = self.log(console=Terminal())
        self.assertNotIn("in the bar", console)
        self.assertIn("in the bar", file)

    def test_unknown_level(self):
        with self.assertRaisesRegex(ValueError, "one of DEBUG, INFO, WARNING, ERROR, found 'loud'"):
            add_log("text", "loud")
