"""Optimizers and schedules."""

import inspect
import math
import unittest
import warnings
from unittest import mock

import torch
from torch import nn
from torch.optim import lr_scheduler

from common.config.errors import UserError
from common.config.schema import OptimizerConfig
from common.optim.build import build_optimizer, build_scheduler


def step(optimizer):
    """Give every parameter a gradient and step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


class TestOptimizers(unittest.TestCase):
    """Every name in torch.optim."""

    def build(self, type="AdamW", parameters=None, **keys):
        parameters = [nn.Parameter(torch.ones(3, 3))] if parameters is None else parameters
        return build_optimizer(OptimizerConfig(type=type, **keys), parameters)

    def test_each_takes_a_step_or_is_refused(self):
        names = [name for name, cls in vars(torch.optim).items() if inspect.isclass(cls) and name[0].isupper()]
        self.assertGreater(len(names), 10)
        for name in set(names) - {"Optimizer", "LBFGS", "SparseAdam"}:
            with self.subTest(name=name):
                optimizer = self.build(name, lr=0.01)
                step(optimizer)
                self.assertFalse(torch.equal(optimizer.param_groups[0]["params"][0], torch.ones(3, 3)))
        for name in ("Optimizer", "LBFGS"):
            with self.assertRaisesRegex(UserError, "(is no optimizer|needs a closure.*), choose one"):
                self.build(name)

    def test_the_learning_rate_follows_the_processes_only_if_told(self):
        with mock.patch("common.optim.build.get_data_size", lambda: 4):
            for scaling, lr in (("none", 0.1), ("linear", 0.4)):
                self.assertEqual(self.build("SGD", lr=0.1, lr_scaling=scaling).param_groups[0]["lr"], lr)

    def test_fused_where_it_can_be(self):
        for name in ("Adam", "AdamW", "SGD"):
            self.assertTrue(self.build(name).defaults["fused"])
        self.assertFalse(self.build("AdamW", args={"foreach": True}).defaults["fused"])

    def test_where_fused_is_refused_the_groups_are_as_new(self):
        parameter = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        optimizer = self.build("Adam", parameters=[{"params": iter([parameter]), "lr": 0.5}])
        self.assertFalse(optimizer.param_groups[0]["fused"])
        self.assertEqual(optimizer.param_groups[0]["lr"], 0.5)
        step(optimizer)

    def test_arguments(self):
        group = self.build("AdamW", lr=0.3, weight_decay=0.2, args={"betas": [0.5, 0.6]}).param_groups[0]
        self.assertEqual((group["lr"], group["weight_decay"], list(group["betas"])), (0.3, 0.2, [0.5, 0.6]))

    def test_mistakes(self):
        for keys, message in (
            ({"type": "AdmaW"}, "optim.type: unknown optimizer 'AdmaW', did you mean 'AdamW'"),
            ({"args": {"beta": 1}}, "'beta'; the signature is AdamW"),
            ({"args": {"eps": -1.0}}, "Invalid epsilon value"),
            ({"args": {"lr": "fast"}}, "optim: AdamW: "),
        ):
            with self.assertRaisesRegex(UserError, message) as caught:
                self.build(**keys)
            self.assertNotIn("\n", str(caught.exception))


class TestSchedules(unittest.TestCase):
    """Learning rates step by step, with a learning rate of 1."""

    def rates(self, steps, total=10, **keys):
        config = OptimizerConfig(type="SGD", lr=1.0, **keys)
        optimizer = build_optimizer(config, [nn.Parameter(torch.ones(1))])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler = build_scheduler(config, optimizer, total)
            rates = []
            for _ in range(steps):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
        return rates

    def assert_rates(self, found, expected):
        self.assertEqual([round(rate, 9) for rate in found], [round(rate, 9) for rate in expected])

    def test_cosine_over_the_whole_run(self):
        expected = [(1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]
        self.assert_rates(self.rates(10, lr_scheduler={"type": "CosineAnnealingLR"}), expected)

    def test_a_length_that_is_given(self):
        expected = [(1 + math.cos(math.pi * i / 5)) / 2 for i in range(5)]
        self.assert_rates(self.rates(5, lr_scheduler={"type": "CosineAnnealingLR", "T_max": 5}), expected)

    def test_warmup_in_front(self):
        warm = [0.01, 0.2575, 0.505, 0.7525]
        after = {
            "CosineAnnealingLR": ({}, [(1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]),
            "StepLR": ({"step_size": 2, "gamma": 0.1}, [1, 1, 0.1, 0.1, 0.01, 0.01]),
            "ExponentialLR": ({"gamma": 0.5}, [0.5**i for i in range(6)]),
            "PolynomialLR": ({"power": 2.0}, [(1 - i / 6) ** 2 for i in range(6)]),
        }
        for name, (keys, expected) in after.items():
            with self.subTest(name=name):
                found = self.rates(10, warmup=4, lr_scheduler={"type": name, **keys})
                self.assert_rates(found, warm + expected)

    def test_warmup_alone(self):
        self.assert_rates(self.rates(6, warmup=2, warmup_factor=0.5), [0.5, 0.75, 1, 1, 1, 1])

    def test_each_of_torchs_builds_or_is_refused_in_one_line(self):
        for name, cls in vars(lr_scheduler).items():
            if not (inspect.isclass(cls) and issubclass(cls, lr_scheduler.LRScheduler) and name[0] != "_"):
                continue
            with self.subTest(name=name):
                config = OptimizerConfig(type="SGD", lr=0.1, args={"momentum": 0.9}, lr_scheduler={"type": name})
                optimizer = build_optimizer(config, [nn.Parameter(torch.ones(1))])
                try:
                    scheduler = build_scheduler(config, optimizer, 10)
                except UserError as error:
                    self.assertRegex(str(error), rf"^optim.lr_scheduler.*: .*{name}")
                    self.assertNotIn("\n", str(error))
                else:
                    self.assertIsInstance(scheduler, cls)

    def test_one_that_ends_before_the_run_is_refused(self):
        for keys in ({"total_steps": 9}, {"epochs": 3, "steps_per_epoch": 3, "total_steps": 9}):
            with self.assertRaisesRegex(UserError, "its 9 steps end before the 10 of the run; leave its length out"):
                self.rates(10, lr_scheduler={"type": "OneCycleLR", "max_lr": 1.0, **keys})

    def test_one_rate_for_groups_that_have_their_own(self):
        for section in ({"type": "OneCycleLR", "max_lr": 1.0}, {"type": "CyclicLR", "base_lr": 0.1, "max_lr": 1.0}):
            parameters = [{"params": [nn.Parameter(torch.ones(1))], **own} for own in ({}, {"lr": 0.2})]
            config = OptimizerConfig(type="SGD", args={"momentum": 0.9}, lr_scheduler=section)
            with self.assertRaisesRegex(UserError, "LR: takes one rate for all parameter groups, and theirs differ"):
                build_scheduler(config, build_optimizer(config, parameters), 10)
            section = {key: [value, 0.2 * value] if "lr" in key else value for key, value in section.items()}
            config = OptimizerConfig(type="SGD", args={"momentum": 0.9}, lr_scheduler=section)
            build_scheduler(config, build_optimizer(config, parameters), 10)

    def test_plateau_behind_a_warmup_is_refused(self):
        with self.assertRaisesRegex(UserError, "cannot follow a warm-up"):
            self.rates(1, warmup=2, lr_scheduler={"type": "ReduceLROnPlateau"})

    def test_none(self):
        config = OptimizerConfig()
        self.assertIsNone(build_scheduler(config, build_optimizer(config, [nn.Parameter(torch.ones(1))]), 10))
