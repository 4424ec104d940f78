"""One optimizer's step and what belongs to it."""

import unittest

import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from common.config.schema import OptimizerConfig
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

    def test_parts(self):
        self.assertEqual(set(self.make().parts()), {"updater", "optimizer", "scheduler"})
        self.assertEqual(
            set(self.make("fp16", ema_decay=0.5).parts()), {"updater", "optimizer", "scheduler", "scaler", "ema"}
        )


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
