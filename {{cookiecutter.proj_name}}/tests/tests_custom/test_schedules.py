"""Schedules beside those of torch, step by step, with a learning rate of 1."""

import math
import unittest

import torch
from torch import nn

from common.config.schema import OptimizerConfig
from common.optim.build import build_scheduler
from common.optim.step import Plan
import custom.optim  # noqa: F401


class TestSchedules(unittest.TestCase):
    """A run of 10 steps."""

    def assert_rates(self, expected, **section):
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
        scheduler = build_scheduler(OptimizerConfig(lr_scheduler=section), optimizer, 10)
        for rate in expected:
            self.assertAlmostEqual(optimizer.param_groups[0]["lr"], rate, places=9)
            optimizer.step()
            scheduler.step()

    def test_warmup_multi_step(self):
        keys = {"milestones": [6, 4], "gamma": 0.1, "warmup_steps": 2, "warmup_factor": 0.5}
        self.assert_rates([0.5, 0.75, 1, 1, 0.1, 0.1, 0.01], type="WarmupMultiStepLR", **keys)

    def test_warmup_cosine(self):
        keys = {"warmup_steps": 2, "warmup_factor": 0.5, "min_factor": 0.2}
        expected = [0.2 + 0.8 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(9)]
        self.assert_rates([0.5, 0.75, *expected], type="WarmUpCosineLR", **keys)

    def test_a_run_that_becomes_longer(self):
        for section in ({"type": "PolyLR"}, {"type": "WarmUpCosineLR", "warmup_steps": 3}):
            runs = []
            for total in (10, 16, 16):
                optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
                runs.append((optimizer, build_scheduler(OptimizerConfig(lr_scheduler=section), optimizer, total)))
            for optimizer, schedule in runs[:2]:
                for _ in range(6):
                    optimizer.step()
                    schedule.step()
            (_, short), (whole, whole_schedule), (longer, longer_schedule) = runs
            Plan(longer_schedule, 1).load_state_dict(Plan(short, 1).state_dict())
            for _ in range(10):
                self.assertEqual(longer.param_groups[0]["lr"], whole.param_groups[0]["lr"])
                whole_schedule.step()
                longer_schedule.step()

    def test_poly(self):
        expected = [max(0.01, (1 - i / 10) ** 2) for i in range(11)] + [0.01]
        self.assert_rates(expected, type="PolyLR", power=2.0, min_factor=0.01)
