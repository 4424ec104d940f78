"""One optimizer's step and what belongs to it."""

import copy
import inspect
import unittest

import torch
from loguru import logger
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import StepLR

from common.config.schema import OptimizerConfig
from common.optim.build import build_optimizer, build_scheduler
from common.optim.step import EMA, OptimizerStep, clip_by_norm, clip_by_value, global_norm


class TestUpdater(unittest.TestCase):
    """A linear model under SGD."""

    def make(self, precision="fp32", only=False, **config):
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        scheduler = StepLR(optimizer, 1)
        updater = OptimizerStep(optimizer, scheduler, OptimizerConfig(**config), self.model, precision, only)
        updater.start_epoch(0)
        return updater

    def test_a_step_drops_the_gradients(self):
        updater = self.make()
        before = self.model.weight.clone()
        updater.backward(self.model.weight.sum())
        updater.step()
        torch.testing.assert_close(self.model.weight.detach(), before.detach() - 0.1)
        self.assertIsNone(self.model.weight.grad)

    def test_only_its_own_parameters(self):
        updater, other = self.make(only=True), nn.Parameter(torch.ones(1))
        updater.backward((self.model(torch.ones(1, 2)) * other).sum())
        self.assertIsNone(other.grad)
        self.assertIsNotNone(self.model.weight.grad)

    def test_a_step_that_fp16_skips_moves_nothing(self):
        updater = self.make(precision="fp16", ema_decay=0.9)
        before, scale = self.model.weight.clone(), updater.scaler.get_scale()
        updater.backward(self.model.weight.sum() * torch.inf)
        updater.step()
        updater.step_scheduler()
        self.assertEqual(updater.steps, 0)
        self.assertTrue(torch.equal(self.model.weight, before))
        self.assertEqual((updater.ema.updates, updater.log_values()["learning_rate"]), (0, 0.1))
        self.assertLess(updater.scaler.get_scale(), scale)
        updater.backward(self.model.weight.sum())
        updater.step()
        updater.step_scheduler()
        self.assertEqual(updater.steps, 1)
        torch.testing.assert_close(self.model.weight.detach(), before.detach() - 0.1)
        self.assertEqual(updater.ema.updates, 1)
        self.assertAlmostEqual(updater.log_values()["learning_rate"], 0.01)

    def test_fp16_gradients_are_true_to_size_before_the_step(self):
        updater = self.make(precision="fp16", clip_gradients=0.5)
        for closes_window in (False, True):
            updater.backward(self.model.weight.sum(), closes_window)
        self.assertEqual(self.model.weight.grad.tolist(), [[2.0, 2.0]])
        before = self.model.weight.clone()
        updater.step()
        self.assertAlmostEqual((before - self.model.weight).norm().item(), 0.1 * 0.5, places=5)

    def test_a_window_without_a_loss_moves_nothing(self):
        for precision in ("fp32", "fp16"):
            updater = self.make(precision, ema_decay=0.9)
            updater.step()
            updater.step_scheduler()
            self.assertEqual(updater.steps, 0)
            self.assertEqual((updater.ema.updates, updater.log_values()["learning_rate"]), (0, 0.1))

    def test_an_epoch_with_any_step_moves_the_schedule_once(self):
        updater = self.make()
        updater.backward(self.model.weight.sum())
        updater.step()
        updater.step()  # the last window of the epoch has no loss
        for _ in range(2):
            updater.step_scheduler()
        self.assertAlmostEqual(updater.log_values()["learning_rate"], 0.01)

    def test_limits_by_epoch(self):
        updater = self.make(clip_gradients=1.0, clip_warmup=2, clip_gradients_warmup=0.5)
        for epoch, limit in ((0, 1.0), (1, 1.0), (2, 0.5), (3, 0.5)):
            updater.start_epoch(epoch)
            before = self.model.weight.clone()
            updater.backward(100 * self.model.weight[0, 0])
            updater.step()
            self.assertAlmostEqual((before - self.model.weight).norm().item(), 0.1 * limit, places=5)
            self.assertAlmostEqual(updater.log_values()["grad_norm"], 100.0, places=3)

    def test_a_groups_own_rate(self):
        for own, expected in (({}, {"learning_rate"}), ({"lr": 0.5}, {"learning_rate", "learning_rate_1"})):
            model = nn.Linear(2, 1)
            optimizer = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias], **own}], lr=0.1)
            step = OptimizerStep(optimizer, StepLR(optimizer, 1, 0.0), OptimizerConfig(), model)
            self.assertEqual(step.log_values(), dict(zip(sorted(expected), (0.1, 0.5), strict=False)))
            step.start_epoch(0)
            step.backward(model.weight.sum())
            step.step()
            step.step_scheduler()
            self.assertEqual(step.log_values().keys() - {"grad_norm"}, expected)

    def test_parts(self):
        self.assertEqual(set(self.make().parts()), {"updater", "optimizer", "scheduler"})
        self.assertEqual(
            set(self.make("fp16", ema_decay=0.5).parts()), {"updater", "optimizer", "scheduler", "scaler", "ema"}
        )


# Arguments of each schedule of torch that a config can name; lengths are left out where the run's is taken.
SCHEDULES = {
    "CosineAnnealingLR": {"eta_min": 0.001},
    "LinearLR": {"end_factor": 0.1},
    "ConstantLR": {"factor": 0.5},
    "PolynomialLR": {"power": 2.0},
    "OneCycleLR": {"max_lr": [0.1, 0.01]},
    "CosineAnnealingWarmRestarts": {"T_0": 4},
    "CyclicLR": {"base_lr": [0.01, 0.001], "max_lr": [0.1, 0.01], "step_size_up": 3},
    "ExponentialLR": {"gamma": 0.9},
    "MultiStepLR": {"milestones": [3, 12]},
    "StepLR": {"step_size": 4},
    "ReduceLROnPlateau": {},
}
LENGTHS = list(SCHEDULES)[:5]  # take the run's length
NOT_BY_NAME = {"LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}


class TestLengths(unittest.TestCase):
    """Schedules of runs that become longer."""

    def make(self, section, total, warmup=0, per_epoch=1):
        config = OptimizerConfig(type="SGD", lr=0.1, args={"momentum": 0.9}, lr_scheduler=section, warmup=warmup)
        model = nn.Linear(2, 1)
        optimizer = build_optimizer(config, [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}])
        scheduler = build_scheduler(config, optimizer, total)
        step = OptimizerStep(optimizer, scheduler, config, model, length=total, epochs=total // per_epoch)
        step.start_epoch(0)
        return step

    def train(self, step, steps, idle=lambda i: False):
        """Make steps and return the learning rates of both groups in each, without those that are idle."""
        rates = []
        for i in range(steps):
            if not idle(i):
                rates.append([group["lr"] for group in step.optimizer.param_groups])
                step.backward(sum(parameter.sum() for parameter in step.parameters))
            step.step()
            step.step_scheduler()
        return rates

    def resume(self, step, into):
        """Return a step that goes on from a copy of another one's state, and what is said."""
        lines = []
        handler = logger.add(lines.append, format="{level} {message}")
        states = copy.deepcopy({kind: part.state_dict() for kind, part in step.parts().items()})
        for kind, part in into.parts().items():
            part.load_state_dict(states[kind])
        logger.remove(handler)
        return into, "".join(lines)

    def test_each_is_that_of_the_new_length_from_there_on(self):
        names = {name for name, cls in vars(lr_scheduler).items() if inspect.isclass(cls) and name[0] != "_"}
        names = {name for name in names if issubclass(getattr(lr_scheduler, name), lr_scheduler.LRScheduler)}
        self.assertEqual(names, SCHEDULES.keys() | NOT_BY_NAME)
        for name, keys in SCHEDULES.items():
            for warmup in (0,) if name == "ReduceLROnPlateau" else (0, 3):
                section = {"type": name, **keys}
                whole = self.train(self.make(section, 16, warmup), 16)
                for done in (2, 6, 10):
                    with self.subTest(name=name, warmup=warmup, done=done):
                        short = self.make(section, 10, warmup)
                        first = self.train(short, done)
                        longer, said = self.resume(short, self.make(section, 16, warmup))
                        torch.testing.assert_close(self.train(longer, 16 - done), whole[done:], rtol=1e-9, atol=1e-12)
                        self.assertEqual("for 10 steps and is planned anew for 16" in said, name in LENGTHS)
                        # In a run of the same length nothing changes, not even a bit.
                        same, said = self.resume(short, self.make(section, 10, warmup))
                        self.assertEqual(
                            first + self.train(same, 10 - done), self.train(self.make(section, 10, warmup), 10)
                        )
                        self.assertEqual(said, "")

    def test_a_checkpoint_that_does_not_tell_its_length(self):
        section = {"type": "CosineAnnealingLR"}
        for total, is_told in ((10, False), (16, True)):
            short = self.make(section, 10)
            self.train(short, 6)
            del short.scheduler.planned_for
            longer, said = self.resume(short, self.make(section, total))
            self.assertEqual(self.train(longer, 4), self.train(self.make(section, total), 10)[6:])
            self.assertEqual("for another number of steps" in said, is_told)

    def test_another_number_of_steps_an_epoch(self):
        short = self.make({"type": "CosineAnnealingLR"}, 20, per_epoch=4)
        self.train(short, 8)
        longer, _ = self.resume(short, self.make({"type": "CosineAnnealingLR"}, 10, per_epoch=2))
        whole = self.train(self.make({"type": "CosineAnnealingLR"}, 10), 10)
        self.assertEqual(self.train(longer, 6), whole[4:])

    def test_an_optimizer_that_makes_some_of_the_steps(self):
        """Its schedule of the whole run ends with the run, one of its own length with its own steps."""
        section = {"type": "CosineAnnealingLR"}
        whole = self.train(self.make(section, 20), 20)
        for idle in (lambda i: i % 2 == 0, lambda i: i % 5, lambda i: 5 < i < 12):
            first = self.make(section, 20)
            rates = self.train(first, 9, idle)
            second, _ = self.resume(first, self.make(section, 20))
            rates += self.train(second, 11, lambda i, idle=idle: idle(i + 9))
            self.assertEqual(rates, [rates for i, rates in enumerate(whole) if not idle(i)])
        declared = self.make({"type": "StepLR", "step_size": 4}, 20)
        rates = self.train(declared, 20, lambda i: i % 2)
        self.assertEqual([round(rate, 9) for rate, _ in rates], [0.1] * 4 + [0.01] * 4 + [0.001] * 2)

    def test_a_skipped_step_is_no_rest(self):
        for cut in (False, True):
            step = self.make({"type": "PolynomialLR"}, 20)
            step.backward(step.parameters[0].sum() * torch.nan)
            step.step()
            if cut:
                step, _ = self.resume(step, self.make({"type": "PolynomialLR"}, 20))
            step.step()  # the rest of the epoch has no loss
            step.step_scheduler()
            self.assertEqual(step.log_values()["learning_rate"], 0.1)


class TestClipping(unittest.TestCase):
    """Against torch.nn.utils."""

    def both(self, ours, theirs, limit):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.zeros(size, dtype=torch.float64)) for size in (3, 5)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        gradients = [parameter.grad.clone() for parameter in parameters]
        results = ours(gradients, limit), theirs(parameters, limit)
        torch.testing.assert_close(gradients, [parameter.grad for parameter in parameters], rtol=1e-12, atol=0)
        return results

    def test_by_norm(self):
        def by_norm(gradients, limit):
            norm = global_norm(gradients)
            clip_by_norm(gradients, limit, norm)
            return norm

        for limit in (0.1, 100.0):
            norm, expected = self.both(by_norm, nn.utils.clip_grad_norm_, limit)
            torch.testing.assert_close(norm, expected, rtol=1e-12, atol=0)

    def test_by_value(self):
        self.both(clip_by_value, nn.utils.clip_grad_value_, 0.3)


class TestEMA(unittest.TestCase):
    """The moving average of the weights, against a loop by hand."""

    def setUp(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def move(self):
        """Change weights, and the running statistics with them."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(torch.randn_like(parameter))
        self.model(torch.randn(8, 3))

    def values(self):
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def test_average_of_weights_and_running_statistics(self):
        ema, expected = EMA(self.model, 0.7), self.values()
        for n in range(1, 9):
            self.move()
            ema.update()
            decay = min(0.7, (1 + n) / (10 + n))
            for name, value in self.values().items():
                expected[name] = decay * expected[name] + (1 - decay) * value
        state = ema.state_dict()
        self.assertEqual(state["updates"], 8)
        self.assertNotIn("1.num_batches_tracked", state["weights"])
        self.assertEqual(len(state["weights"]), 6)
        for name, average in state["weights"].items():
            torch.testing.assert_close(average, expected[name])

    def test_swapped_in_and_back_again(self):
        ema = EMA(self.model, 0.9)
        self.move()
        before = self.values()
        with self.assertRaises(ZeroDivisionError), ema.swapped_in():
            for name, average in ema.state_dict()["weights"].items():
                self.assertTrue(torch.equal(self.model.state_dict()[name], average), name)
            raise ZeroDivisionError
        for name, value in self.values().items():
            self.assertTrue(torch.equal(value, before[name]), name)

    def test_state(self):
        ema = EMA(self.model, 0.9)
        self.move()
        ema.update()
        other = EMA(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 0.9)
        other.load_state_dict(ema.state_dict())
        self.assertEqual(other.updates, 1)
        for name, average in ema.state_dict()["weights"].items():
            self.assertTrue(torch.equal(other.state_dict()["weights"][name], average), name)
