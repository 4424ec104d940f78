"""Several models and optimizers by name: a small GAN."""

import unittest
import warnings
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from common.config.errors import UserError
from common.config.schema import OptimizerConfig
from common.data import ArrayDataset, make_loader
from common.engine import EpochBasedTrainer, IterBasedTrainer
from common.optim.build import build_optimizer, build_scheduler
from common.run.seed import seed_everything
from common.state.file import read_checkpoint
from tests.tests_common.engine import toy

NAMES = ("generator", "discriminator")


class GANSteps:
    """Learns to draw from a normal distribution around (2, -1)."""

    def __init__(self, config, session, seed=0):
        super().__init__(config, session)
        seed_everything(seed)
        generator = torch.Generator().manual_seed(0)
        real = torch.randn(48, 2, generator=generator, dtype=torch.float64) * 0.1 + torch.tensor([2.0, -1.0])
        noise = torch.randn(48, 2, generator=generator, dtype=torch.float64)
        self.register_loader(
            make_loader(ArrayDataset("data", real=real, noise=noise), config.batch_size, training=True)
        )
        self.register_model(nn.Linear(2, 2).double(), "generator")
        self.register_model(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)).double(), "discriminator")
        for name, model in self.models.items():
            section = self.optim_config(name)
            self.register_optimizer(build_optimizer(section, self.parameter_groups(model)), name)
            self.register_scheduler(build_scheduler(section, self.optimizers[name], self.schedule_length), name)

    def train_step(self, epoch, iteration, data_dict):
        fake = self.models["generator"](data_dict["noise"])
        judge = self.models["discriminator"]
        losses = {
            "generator": functional.softplus(-judge(fake)).mean(),
            "discriminator": functional.softplus(-judge(data_dict["real"])).mean()
            + functional.softplus(judge(fake.detach())).mean(),
        }
        return {"fake": fake}, {"loss": losses}

    def val_step(self, epoch, iteration, data_dict):
        fake = self.models["generator"](data_dict["noise"])
        return {"fake": fake}, {"distance": (fake.mean(0) - data_dict["real"].mean(0)).norm()}


class GANEpochTrainer(GANSteps, EpochBasedTrainer):
    """By epochs."""


class GANIterTrainer(GANSteps, IterBasedTrainer):
    """By iterations."""


def make_config(accumulate=1, batch_size=16, epoch=2, **changes):
    generator = {"type": "Adam", "lr": 0.02, "ema_decay": 0.9, "clip_gradients": 0.5, **changes}
    discriminator = {"type": "SGD", "lr": 0.05, "lr_scheduler": {"type": "ExponentialLR", "gamma": 0.99}}
    named = {"generator": OptimizerConfig(**generator), "discriminator": OptimizerConfig(**discriminator)}
    optim = {"type": "AdamW", "lr": 1e-3, "named": named}  # the defaults: nothing is set beside the names
    return toy.make_config({"accumulate": accumulate}, optim, {"epoch": epoch}, batch_size=batch_size)


class TestNames(unittest.TestCase):
    def test_a_result_with_the_name_of_an_optimizers_loss(self):
        class Named(GANEpochTrainer):
            def train_step(self, *arguments):
                output_dict, result_dict = super().train_step(*arguments)
                return output_dict, {**result_dict, "loss.generator": 0.0}

        with self.assertRaisesRegex(UserError, "its result 'loss.generator' has the name of an optimizer's loss"):
            Named(make_config(), toy.make_session(self)).run()


class TestGAN(unittest.TestCase):
    """Two optimizers, each with its own loss, schedule, clipping and average."""

    def train(self, config, trainer=GANEpochTrainer, **keys):
        trainer = trainer(config, toy.make_session(self), **keys)
        trainer.run()
        return trainer

    def assert_equal(self, one, other, atol=0.0):
        for name in NAMES:
            torch.testing.assert_close(toy.weights_of(one, name), toy.weights_of(other, name), rtol=0, atol=atol)

    def test_one_step_equals_one_by_hand(self):
        trainer = GANEpochTrainer(make_config(batch_size=48, epoch=1, clip_gradients=0.0), toy.make_session(self))
        generator, discriminator = trainer.models.values()
        data = next(iter(trainer.train_loader))
        losses = trainer.train_step(0, 0, data)[1]["loss"]
        g = torch.autograd.grad(losses["generator"], list(generator.parameters()), retain_graph=True)
        d = torch.autograd.grad(losses["discriminator"], list(discriminator.parameters()))
        expected_d = [p - 0.05 * grad for p, grad in zip(discriminator.parameters(), d, strict=True)]
        expected_g = [p - 0.02 * grad.sign() for p, grad in zip(generator.parameters(), g, strict=True)]
        trainer.run()
        torch.testing.assert_close(list(discriminator.parameters()), expected_d, rtol=0, atol=1e-12)
        torch.testing.assert_close(list(generator.parameters()), expected_g, rtol=0, atol=1e-6)

    def test_accumulation(self):
        whole = self.train(make_config(batch_size=32))
        parts = self.train(make_config(accumulate=4, batch_size=8))
        self.assert_equal(whole, parts, atol=1e-12)

    def test_trains_and_validates_the_average(self):
        trainer = GANEpochTrainer(make_config(epoch=150, ema_decay=0.5), toy.make_session(self))
        trainer.val_loader = trainer.train_loader
        distances = []
        trainer.after_val_epoch = lambda epoch, summary_dict: distances.append(summary_dict["distance"])
        trainer.run()
        self.assertLess(distances[-1], 0.5 * distances[0])

    def test_resumes(self):
        for trainer_class in (GANEpochTrainer, GANIterTrainer):
            whole = self.train(make_config(epoch=4), trainer_class)
            first = self.train(make_config(epoch=2), trainer_class)
            folder = first.session.folder
            session = toy.make_session(self, folder / "checkpoints" / "latest.pt", folder)
            second = trainer_class(make_config(epoch=4), session, seed=7)
            second.run()
            self.assert_equal(whole, second)

    def test_a_schedule_of_the_whole_run_ends_with_it_however_often_its_optimizer_steps(self):
        class EverySecond(GANIterTrainer):
            def train_step(self, epoch, iteration, data_dict):
                output_dict, result_dict = super().train_step(epoch, iteration, data_dict)
                if self.total_iterations % 2 == 0:
                    del result_dict["loss"]["generator"]
                return output_dict, result_dict

        config = make_config(epoch=20, lr_scheduler={"type": "PolynomialLR"})
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Detected call of")
            trainer = self.train(config, EverySecond)
        self.assertEqual([step.steps for step in trainer.steps.values()], [30, 60])
        self.assertAlmostEqual(trainer.optimizers["generator"].param_groups[0]["lr"], 0.0)

    def test_checkpoint_has_each_part_by_name(self):
        state = read_checkpoint(self.train(make_config()).session.folder / "checkpoints" / "final.pt")
        for key in ("model", "optimizer"):
            self.assertLessEqual({f"{key}.generator", f"{key}.discriminator"}, set(state))
        self.assertIn("scheduler.discriminator", state)
        self.assertIn("ema.generator", state)
        self.assertNotIn("ema.discriminator", state)

    def test_a_loss_without_an_optimizer(self):
        trainer = GANEpochTrainer(make_config(), toy.make_session(self))
        step = trainer.train_step

        def renamed(*arguments):
            output_dict, result_dict = step(*arguments)
            return output_dict, {"loss": {"generater": result_dict["loss"]["generator"]}}

        trainer.train_step = renamed
        with self.assertRaisesRegex(UserError, "optimizer 'generater', did you mean 'generator'"):
            trainer.run()

    def test_what_is_set_beside_the_names(self):
        config = make_config()
        config = replace(config, optim=replace(config.optim, lr=0.5, clip_gradients=1.0))
        text = (
            "optim.lr, optim.clip_gradients: without effect, .*; set them in optim.named.generator, optim.named.discr"
        )
        with self.assertRaisesRegex(UserError, text):
            self.train(config)
        folder = self.train(make_config()).session.folder
        session = toy.make_session(self, folder / "checkpoints" / "latest.pt", folder)
        with self.assertRaisesRegex(UserError, "optim.lr was 0.001, is 0.5"):  # so it was not refused
            GANEpochTrainer(config, session).run()

    def test_an_optimizer_without_a_section(self):
        trainer = GANEpochTrainer(make_config(), toy.make_session(self))
        with self.assertRaisesRegex(UserError, "optim.named.encoder: no such section"):
            trainer.optim_config("encoder")
