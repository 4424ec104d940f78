"""Speed, waiting time and time to go."""

import contextlib
import io
import unittest
from unittest import mock

from common.log.console import Progress


class TestProgress(unittest.TestCase):
    """With a clock of its own."""

    def setUp(self):
        self.now = 100.0
        patch = mock.patch("common.log.console.time.perf_counter", lambda: self.now)
        patch.start()
        self.addCleanup(patch.stop)

    def test_speed_and_waiting(self):
        progress = Progress(total=1000, done=200)
        self.now += 4.0
        progress.waited = 1.0
        self.assertEqual(progress.measure(220), {"iterations_per_second": 5.0, "data_wait": 0.25})
        self.assertEqual(progress.describe(), "5 it/s, data 25%, eta 0:02:36")
        self.now += 2.0
        self.assertEqual(progress.measure(240), {"iterations_per_second": 10.0, "data_wait": 0.0})

    def test_a_validation_does_not_count(self):
        progress = Progress(total=100)
        self.now += 50.0
        progress.restart_clock(10)
        self.now += 1.0
        self.assertEqual(progress.measure(20)["iterations_per_second"], 10.0)

    def test_any_length(self):
        self.assertIn("eta 11574074 days", Progress(total=10**18).describe())

    def test_no_bar_off_a_terminal(self):
        console = io.StringIO()
        with contextlib.redirect_stderr(console):
            progress = Progress(total=3)
            progress.set_postfix_str("loss 1", refresh=False)
            progress.close()
        self.assertTrue(progress.disable)
        self.assertEqual(console.getvalue(), "")
