"""Batches on their way to the device, and what is done to them there."""

import unittest
from unittest import mock

import torch
from loguru import logger
from torch import nn
from torch.utils.data import DataLoader

from common.data import make_loader
from common.data.batches import open_pass
from common.data.dataset import collate
from common.data.loader import join_batches, on_device, prefetch
from common.engine import EpochBasedTrainer
from common.run.strategy import move_to
from tests.tests_common.engine import toy


class TestPrefetch(unittest.TestCase):
    """On the CPU, whose streams do nothing; a GPU runs the same lines."""

    def test_all_come_in_order(self):
        for count in (0, 1, 5):
            batches = [{"x": torch.tensor([i]), "more": [torch.tensor(i)], "name": "a"} for i in range(count)]
            found = list(prefetch(iter(batches), torch.device("cpu")))
            self.assertEqual(
                [(b["x"].item(), b["more"][0].item(), b["name"]) for b in found], [(i, i, "a") for i in range(count)]
            )

    def test_one_is_fetched_ahead(self):
        fetched = []

        def batches():
            for i in range(4):
                fetched.append(i)
                yield {"x": torch.tensor(i)}

        came = prefetch(batches(), torch.device("cpu"))
        for i, expected in enumerate(([0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3])):
            self.assertEqual(next(came)["x"].item(), i)
            self.assertEqual(fetched, expected)

    def test_the_cpu_needs_none(self):
        batches = [{"x": torch.zeros(1)}]
        self.assertIs(next(on_device(batches, torch.device("cpu"))), batches[0])
        self.assertEqual(next(on_device(batches, torch.device("meta")))["x"].device.type, "meta")

    @unittest.skipUnless(torch.cuda.is_available(), "needs a GPU")
    def test_on_a_gpu(self):
        device = torch.device("cuda")
        batches = [{"x": torch.full((1 << 20,), float(i)).pin_memory()} for i in range(20)]
        for i, batch in enumerate(on_device(batches, device)):
            self.assertTrue(batch["x"].eq(i).all().item())
            self.assertTrue(move_to(batch, torch.device("cpu"))["x"].eq(i).all())


class TestOtherLoaders(unittest.TestCase):
    """Without the room that makes their resumes exact."""

    def test_train_and_are_warned_of(self):
        lines = []
        handler = logger.add(lines.append, format="{message}", level="WARNING")
        self.addCleanup(logger.remove, handler)
        with mock.patch("common.config.registry.has_room", lambda name: False):
            trainer = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
            trainer.register_loader(DataLoader(trainer.train_loader.dataset, 8, collate_fn=collate), trainer.val_loader)
            trainer.run()
        self.assertEqual(trainer.total_iterations, 2 * len(trainer.train_loader))
        self.assertIn("the room common/loading is missing, so that a resume within a pass may not be exact", lines[0])
        self.assertNotIn("loader", trainer.state_dict())

    def test_from_any_batch_on(self):
        batches = list(open_pass([1, 2, 3], 0, 1))
        self.assertEqual(batches, [2, 3])


class NoisyTrainer(EpochBasedTrainer):
    """A regression whose batches are doubled, and blurred by chance, on the device."""

    def __init__(self, config, session):
        super().__init__(config, session)
        blur = lambda batch: {**batch, "x": 2 * batch["x"] + 0.1 * torch.randn_like(batch["x"])}  # noqa: E731
        exact = lambda batch: {**batch, "x": 2 * batch["x"]}  # noqa: E731
        self.register_loader(
            make_loader(toy.make_data(), 4, training=True, transform_batch=blur),
            make_loader(toy.make_data(), 4, transform_batch=exact),
        )
        self.register_model(nn.Linear(4, 1))
        self.register_optimizer(torch.optim.SGD(self.model.parameters(), 0.01))
        self.seen = {"train": [], "val": []}

    def train_step(self, epoch, iteration, data_dict):
        self.seen["train" if self.model.training else "val"].append(data_dict["x"])
        output = self.model(data_dict["x"])
        return {"y": output}, {"loss": nn.functional.mse_loss(output, data_dict["y"])}

    def val_step(self, epoch, iteration, data_dict):
        return self.train_step(epoch, iteration, data_dict)


class TestTransforms(unittest.TestCase):
    def run_trainer(self, epoch, checkpoint=None):
        session = toy.make_session(self, checkpoint)
        config = toy.make_config(progress={"epoch": epoch, "iter_save_checkpoint": 4})
        torch.manual_seed(0)
        trainer = NoisyTrainer(config, session)
        trainer.run()
        return trainer

    def test_steps_see_what_they_make(self):
        trainer, data = self.run_trainer(1), toy.make_data()
        self.assertTrue(torch.cat(trainer.seen["val"]).equal(2 * data.tensors["x"]))
        seen = torch.cat(trainer.seen["train"])
        self.assertFalse(seen.equal(2 * data.tensors["x"]))
        nearest = torch.cdist(seen, 2 * data.tensors["x"]).min(1).values
        self.assertLess(nearest.max().item(), 1.0)

    def test_a_resume_draws_the_same(self):
        whole = self.run_trainer(2)
        path = whole.session.folder / "checkpoints" / "iter_000004.pt"
        resumed = self.run_trainer(2, path)
        for one, other in zip(whole.seen["train"][4:], resumed.seen["train"], strict=True):
            self.assertTrue(one.equal(other))


class TestJoinedBatches(unittest.TestCase):
    def test_several(self):
        one = {"x": torch.zeros(2, 3), "names": ["a", "b"], "size": 5}, {"y": torch.zeros(2)}
        two = {"x": torch.ones(1, 3), "names": ["c"], "size": 5}, {"y": torch.ones(1)}
        data, output = join_batches([one, two])
        self.assertEqual((data["x"][:, 0].tolist(), data["names"], data["size"]), ([0, 0, 1], ["a", "b", "c"], 5))
        self.assertEqual(output["y"].tolist(), [0, 0, 1])
        self.assertIs(join_batches([one])[0], one[0])

    def test_other_shapes(self):
        one, two = ({"x": torch.zeros(2, size), "label": torch.zeros(2)} for size in (3, 4))
        self.assertIs(join_batches([(one,), (two,)])[0], one)
