"""Which operation of a forward pass made a NaN or an infinity."""

import tempfile
import unittest
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from common.config.errors import RunError
from common.config.schema import DebugConfig
from common.diagnose.non_finite import NonFiniteOrigin
from tests import needs_room, slow
from tests.tests_common.engine import toy
from tests.tests_common.processes import run_script

SHARDED = """
    import sys
    from dataclasses import replace
    from common.config.schema import DebugConfig
    from tests.tests_common.processes import make_config, train

    for strategy in ("ddp", "fsdp", "tp"):
        config = make_config(sys.argv[1], strategy, 2, epoch=1, dist={"strategy": strategy})
        train(replace(config, debug=DebugConfig(debug_mode=True)))
"""


def origin(compute):
    """Return what the origin of a loss is said to be."""
    mode = NonFiniteOrigin()
    with mode:
        loss = compute()
    return mode.explain(loss)


class TestOrigin(unittest.TestCase):
    def test_the_operation_and_its_line(self):
        x = torch.tensor([1.0, -1.0], requires_grad=True)
        line = r".*diagnose[/\\]test_non_finite.py:\d+$"
        cases = {
            r"NaN comes from 'log' in " + line: lambda: functional.mse_loss((2 * x).log() + 1, x),
            r"NaN comes from 'sub' in " + line: lambda: ((1e3 * x).exp() - (1e3 * x).exp()).sum(),
            r"infinity comes from 'exp' in " + line: lambda: (1e3 * x).exp().mean(),
            r"NaN comes from 'sqrt' in " + line: lambda: (x.detach() * 1).sqrt_().sum(),
            r"NaN comes from the batch or the weights, which": lambda: (x * 1e38 * torch.tensor(torch.nan)).sum(),
        }
        for expected, compute in cases.items():
            self.assertRegex(origin(compute), f"^the loss is not finite; the {expected}")

    def test_the_infinities_of_a_mask_are_meant(self):
        def attention():
            scores = torch.zeros(2, 2).masked_fill(torch.ones(2, 2).triu(1).bool(), -torch.inf)
            return (scores.softmax(1).sum() - 3).log()

        self.assertIn("NaN comes from 'log' in", origin(attention))


class TestDebugMode(unittest.TestCase):
    """A whole run names the model's line, not the loss; what it computes is the same."""

    def run_trainer(self, compute, precision="fp32"):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 1)
                self.norm = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.5))

            def forward(self, x):
                return compute(self.norm(self.layer(x)))

        class Trainer(toy.ToyEpochTrainer):
            def register_model(self, model):
                super().register_model(Net())

        config = toy.make_config({"precision": precision}, batch_size=4, debug=DebugConfig(debug_mode=True))
        trainer = Trainer(config, toy.make_session(self))
        self.addCleanup(torch.autograd.set_detect_anomaly, False)
        trainer.run()
        return trainer

    def test_a_run(self):
        for precision in ("fp32", "fp16"):
            with self.assertRaisesRegex(RunError, r"^epoch 0 iteration 1: .* NaN comes from 'log' in .*non_finite"):
                self.run_trainer(lambda y: (-y.abs() - 1).log(), precision)

    def test_a_backward_pass(self):
        with self.assertRaisesRegex(RuntimeError, "SqrtBackward0.* returned nan values"):
            self.run_trainer(lambda y: (y * 0).sqrt() * 0 + y)

    def test_a_healthy_run(self):
        trainer = self.run_trainer(lambda y: y)
        self.assertFalse(Path(trainer.session.folder, "debug").exists())

    @slow
    @needs_room("sharding")
    def test_healthy_runs_on_two_ranks(self):
        with tempfile.TemporaryDirectory() as folder:
            run_script(Path(folder), SHARDED, 2, folder)
            self.assertFalse(list(Path(folder).glob("*/debug")))
