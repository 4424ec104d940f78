"""Where the time goes."""

import json
import tempfile
import time
import unittest
from pathlib import Path

import torch
from loguru import logger

from common.config.errors import UserError
from common.diagnose.profiling import StepProfile, profile_runtime
from tests.tests_common.engine import toy


class ProfilingTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.lines = []
        sink = logger.add(lambda message: self.lines.append(message.record["message"]))
        self.addCleanup(logger.remove, sink)


class TestLines(ProfilingTest):
    def test_they_are_timed(self):
        with profile_runtime("a nap"):
            time.sleep(0.02)
        (line,) = [line for line in self.lines if "a nap took" in line]
        self.assertGreaterEqual(float(line.split()[-2]), 20)


class TestStepProfile(ProfilingTest):
    def test_parts_and_the_rest(self):
        profile = StepProfile(self.folder)
        profile.start()
        for nap in (0.03, 0.01):
            profile.switch("nap")
            time.sleep(nap)
            profile.switch(None)
        torch.ones(3) + 1
        time.sleep(0.02)
        seconds = profile.stop("rest")
        self.assertEqual(set(seconds), {"nap", "rest"})
        self.assertGreaterEqual(seconds["nap"], 0.04)
        self.assertGreaterEqual(seconds["rest"], 0.02)
        self.assertIn("aten::add", (self.folder / "operations.txt").read_text())
        names = {event.get("name") for event in json.loads((self.folder / "trace.json").read_text())["traceEvents"]}
        self.assertLessEqual({"nap", "aten::add"}, names)


class TestTrainer(ProfilingTest):
    def run_trainer(self, **debug):
        from common.config.schema import DebugConfig

        config = toy.make_config(progress={"epoch": 3, "iter_loss": 2}, debug=DebugConfig(**debug), batch_size=4)
        trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
        trainer.run()
        return trainer

    def test_watched_iterations(self):
        watched, plain = self.run_trainer(profile=[3, 8]), self.run_trainer()
        (line,) = [line for line in self.lines if line.startswith("profile | 5 iterations, ")]
        for part in ("data", "forward", "backward", "optimizer", "engine"):
            self.assertRegex(line, rf"{part} \d+%")
        shares = [int(word.removesuffix("%,").removesuffix("%")) for word in line.split() if "%" in word]
        self.assertAlmostEqual(sum(shares), 100, delta=3)
        folder = watched.session.folder / "profile"
        events = json.loads((folder / "trace.json").read_text())["traceEvents"]
        spans = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        for part in ("forward", "backward", "optimizer"):
            self.assertEqual(spans.count(part), 5)
        for one, other in zip(watched.model.parameters(), plain.model.parameters(), strict=True):
            self.assertTrue(one.equal(other))
        self.assertFalse((plain.session.folder / "profile").exists())

    def test_a_run_that_ends_before(self):
        trainer = self.run_trainer(profile=[2, 1000])
        self.assertTrue((trainer.session.folder / "profile" / "trace.json").is_file())
        with self.assertRaisesRegex(UserError, "debug.profile: the run has 18 iterations, and none from 18 on"):
            self.run_trainer(profile=[18, 20])
