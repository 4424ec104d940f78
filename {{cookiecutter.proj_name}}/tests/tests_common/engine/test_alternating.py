"""Optimizers that take turns within ``train_step``: a Wasserstein GAN with a gradient penalty."""

import os
import signal
import tempfile
import unittest
from pathlib import Path

import torch
from torch import nn

from common.config.errors import UserError
from common.config.schema import OptimizerConfig
from common.data import ArrayDataset, make_loader
from common.data.batches import open_pass
from common.engine import IterBasedTrainer
from common.optim.build import build_optimizer, build_scheduler
from common.run.seed import seed_everything
from tests import share_of, slow
from tests.tests_common import processes
from tests.tests_common.engine import toy

CRITIC_STEPS, GENERATOR_STEPS, BATCH = 5, 10, 8
LR, LIMIT, DECAY = 0.01, 0.7, 0.9


def make_models():
    seed_everything(0)
    critic = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    return {"critic": critic.double(), "generator": nn.Linear(2, 2).double()}


def make_train_loader(batch_size, samples=480):
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(samples, 2, generator=generator, dtype=torch.float64) * 0.3 + torch.tensor([2.0, -1.0])
    noise = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    mix = torch.rand(samples, 1, generator=generator, dtype=torch.float64)
    return make_loader(ArrayDataset("data", real=real, noise=noise, mix=mix), batch_size, training=True)


def critic_loss(critic, fake, batch, penalty=True):
    if not penalty:
        return critic(fake).square().mean() + (critic(batch["real"]) - 1).square().mean()
    mixed = (batch["mix"] * batch["real"] + (1 - batch["mix"]) * fake).requires_grad_()
    slope = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
    return critic(fake).mean() - critic(batch["real"]).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()


class GANTrainer(IterBasedTrainer):
    """Five steps of the critic, then one of the generator, each on batches of its own."""

    penalty, shares = True, {"critic": 5 / 6, "generator": 1 / 6}

    def __init__(self, config, session):
        super().__init__(config, session)
        self.register_loader(make_train_loader(config.batch_size))
        for name, model in make_models().items():
            self.register_model(model, name)
            section = self.optim_config(name)
            self.register_optimizer(build_optimizer(section, model.parameters()), name)
            steps = round(self.schedule_length * self.shares[name])
            self.register_scheduler(build_scheduler(section, self.optimizers[name], steps), name)

    def step_critic(self, data_dict):
        fake = self.models["generator"](data_dict["noise"]).detach()
        self.step("critic", critic_loss(self.models["critic"], fake, data_dict, self.penalty))

    def step_generator(self, data_dict):
        self.step("generator", -self.models["critic"](self.models["generator"](data_dict["noise"])).mean())

    def train_step(self, epoch, iteration, data_dict):
        done = sum(step.steps for step in self.steps.values())
        (self.step_critic if done % (CRITIC_STEPS + 1) < CRITIC_STEPS else self.step_generator)(data_dict)
        return {}, {}

    def val_step(self, epoch, iteration, data_dict):
        return {}, {}


class PlainTrainer(GANTrainer):
    """Without the penalty, whose second derivatives torch.compile lacks."""

    penalty = False


class OneBatchTrainer(GANTrainer):
    """Five steps of the critic and one of the generator on each batch."""

    shares = {"critic": 5, "generator": 1}

    def train_step(self, epoch, iteration, data_dict):
        for _ in range(CRITIC_STEPS):
            self.step_critic(data_dict)
        self.step_generator(data_dict)
        return {}, {}


def make_config(accumulate=1, ranks=1, trainer=None, windows=60, **keys):
    section = {"type": "Adam", "lr": LR, "clip_gradients": LIMIT, "lr_scheduler": {"type": "CosineAnnealingLR"}}
    named = {"critic": OptimizerConfig(**section), "generator": OptimizerConfig(**section, ema_decay=DECAY)}
    progress = {"epoch": 2, "iters_per_epoch": windows * accumulate // 2, "iter_loss": 1}
    trainer = {"accumulate": accumulate, **(trainer or {})}
    size = BATCH // accumulate // ranks
    return toy.make_config(
        trainer, {"type": "AdamW", "lr": 1e-3, "named": named}, progress, batch_size=size, gpu_ids=-1, **keys
    )


def train_by_hand(one_batch=False):
    """Return the weights, and the average of the generator's."""
    models = make_models()
    critic, generator = models.values()
    optimizers = {name: torch.optim.Adam(model.parameters(), LR) for name, model in models.items()}
    lengths = {"critic": CRITIC_STEPS * GENERATOR_STEPS, "generator": GENERATOR_STEPS}
    schedules = {n: torch.optim.lr_scheduler.CosineAnnealingLR(o, lengths[n]) for n, o in optimizers.items()}
    average = {name: value.clone() for name, value in generator.state_dict().items()}

    def step(name, loss):
        parameters = list(models[name].parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, LIMIT)
        optimizers[name].step()
        schedules[name].step()

    batches = iter(list(open_pass(make_train_loader(BATCH), 0)))
    for updates in range(1, GENERATOR_STEPS + 1):
        batch = next(batches)
        for _ in range(CRITIC_STEPS):
            step("critic", critic_loss(critic, generator(batch["noise"]).detach(), batch))
            batch = batch if one_batch else next(batches)
        step("generator", -critic(generator(batch["noise"])).mean())
        for name, value in generator.state_dict().items():
            average[name].lerp_(value, 1 - min(DECAY, (1 + updates) / (10 + updates)))
    return {name: model.state_dict() for name, model in models.items()}, average


SCRIPT = """
    import os, signal, sys
    from dataclasses import replace
    import torch
    from common.run.distributed import get_rank
    from common.config.console import command
    from common.run.launch import launch
    from tests.tests_common.engine import test_alternating as test

    folder, name, accumulate, cut = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    config = test.make_config(accumulate, ranks, name=name, resume="auto")
    config = replace(config, dir=replace(config.dir, expr_dir=folder))

    class Cut(test.GANTrainer):
        def train_step(self, epoch, iteration, data_dict):
            if self.total_iterations + 1 == cut:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().train_step(epoch, iteration, data_dict)

    with command(), launch(config) as session:
        Cut(config, session).run()
"""


class TestTurns(unittest.TestCase):
    """Equal to the loop by hand."""

    def train(self, config, trainer=GANTrainer):
        trainer = trainer(config, toy.make_session(self))
        trainer.run()
        return trainer

    def assert_by_hand(self, folder, **keys):
        state = torch.load(Path(folder) / "checkpoints" / "final.pt", weights_only=True)
        weights, average = train_by_hand(**keys)
        for name, expected in weights.items():
            torch.testing.assert_close(dict(state[f"model.{name}"]), dict(expected), rtol=0, atol=1e-12)
            self.assertLess(state[f"optimizer.{name}"]["param_groups"][0]["lr"], 1e-12)  # the end of its schedule
        torch.testing.assert_close(state["ema.generator"]["weights"], average, rtol=0, atol=1e-12)

    def test_equal_to_a_loop_by_hand(self):
        for accumulate in (1, 2):
            with self.subTest(accumulate=accumulate):
                trainer = self.train(make_config(accumulate))
                steps = {name: step.steps for name, step in trainer.steps.items()}
                self.assertEqual(steps, {"critic": CRITIC_STEPS * GENERATOR_STEPS, "generator": GENERATOR_STEPS})
                self.assert_by_hand(trainer.session.folder)

    def test_all_steps_on_one_batch(self):
        trainer = self.train(make_config(windows=GENERATOR_STEPS), OneBatchTrainer)
        self.assert_by_hand(trainer.session.folder, one_batch=True)

    def test_on_two_ranks(self):
        with tempfile.TemporaryDirectory() as folder:
            processes.run_script(Path(folder), SCRIPT, 2, folder, "two", "2", "0")
            self.assert_by_hand(Path(folder) / "two")

    @slow
    def test_compiled(self):
        plain, compiled = (self.train(make_config(trainer={"compile": mode}), PlainTrainer) for mode in (False, True))
        for name in ("critic", "generator"):
            torch.testing.assert_close(toy.weights_of(plain, name), toy.weights_of(compiled, name), rtol=0, atol=1e-9)

    def test_mixed_precision_sees_the_new_weights(self):
        trainer = GANTrainer(make_config(trainer={"precision": "bf16"}), toy.make_session(self))
        for name in ("critic", "generator"):
            trainer.forms.bare[name].float()
        step, judged = trainer.step, []

        def step_between(name, loss):
            critic = trainer.models["critic"]
            judged.append(critic(torch.ones(1, 2)).item())
            step(name, loss)
            judged.append(critic(torch.ones(1, 2)).item())

        trainer.step = step_between
        floats = {"real", "noise", "mix"}
        trainer.before_train_step = lambda epoch, i, data: data.update({name: data[name].float() for name in floats})
        trainer.run()
        self.assertGreater(sum(a != b for a, b in zip(judged[::2], judged[1::2], strict=True)), 40)

    def test_cut_anywhere(self):
        whole = self.train(make_config(2))
        for cut in share_of(range(1, 120, 3), 8):
            with self.subTest(cut=cut):
                session = toy.make_session(self)
                first = GANTrainer(make_config(2), session)
                step = first.train_step

                def cut_short(epoch, iteration, data_dict, first=first, step=step, cut=cut):
                    if first.total_iterations + 1 == cut:
                        os.kill(os.getpid(), signal.SIGTERM)
                    return step(epoch, iteration, data_dict)

                first.train_step = cut_short
                with self.assertRaises(SystemExit):
                    first.run()
                checkpoint = session.folder / "checkpoints" / "latest.pt"
                second = GANTrainer(make_config(2), toy.make_session(self, checkpoint, session.folder))
                second.run()
                for name in ("critic", "generator"):
                    self.assertTrue(toy.weights_of(whole, name).equal(toy.weights_of(second, name)))

    def test_mistakes(self):
        cases = {
            "no such optimizer, did you mean 'critic'": lambda trainer, batch: trainer.step("critik", torch.ones(())),
            "must be a tensor of one element, found shape \\(2,\\)": lambda trainer, batch: trainer.step(
                "critic", torch.ones(2)
            ),
            "set it to 1": lambda trainer, batch: [trainer.step("critic", loss_of(trainer, batch)) for _ in range(2)],
        }

        def loss_of(trainer, batch):
            return critic_loss(trainer.models["critic"], batch["noise"], batch)

        for message, step in cases.items():
            trainer = GANTrainer(make_config(2), toy.make_session(self))
            trainer.train_step = lambda epoch, iteration, batch, trainer=trainer, step=step: step(trainer, batch)
            with self.subTest(message), self.assertRaisesRegex(UserError, message):
                trainer.run()

    def test_no_steps_in_a_validation(self):
        trainer = GANTrainer(make_config(), toy.make_session(self))
        trainer.val_loader = trainer.train_loader
        trainer.val_step = lambda epoch, iteration, batch: trainer.step("critic", batch["mix"].mean())
        with self.assertRaisesRegex(UserError, "only train_step makes steps, found a validation"):
            trainer.run()

    def test_a_step_and_a_returned_loss(self):
        trainer = GANTrainer(make_config(), toy.make_session(self))
        step = trainer.train_step

        def both(epoch, iteration, data_dict):
            step(epoch, iteration, data_dict)
            return {}, {"loss": {"critic": critic_loss(trainer.models["critic"], data_dict["noise"], data_dict)}}

        trainer.train_step = both
        with self.assertRaisesRegex(UserError, "'critic', which has made its step"):
            trainer.run()

    def test_losses_are_logged(self):
        trainer = self.train(make_config())
        log = (trainer.session.folder / "metrics.jsonl").read_text()
        self.assertEqual((log.count('"loss.critic"'), log.count('"loss.generator"')), (52, 12))
