"""Samples of unequal length."""

import unittest

import torch

from common.config.errors import UserError
from common.data import make_loader
from common.engine import EpochBasedTrainer
from common.loading.pad import Pad
from common.optim.build import build_optimizer
from tests.compare import differences
from tests.tests_common.engine import rich, test_cuts, toy


class Texts(rich.Augmented):
    """Sequences of one to eleven tokens, and a number."""

    def __getitem__(self, index):
        tokens = torch.arange(index % 11 + 1) + index
        return {"tokens": tokens % 16, "label": (tokens + 1) % 16, "number": index}


class TestPad(unittest.TestCase):
    def test_values(self):
        batch = Pad({"tokens": 0, "label": -100})([Texts()[2], Texts()[0]])
        self.assertEqual(batch["tokens"].tolist(), [[2, 3, 4], [0, 0, 0]])
        self.assertEqual(batch["label"].tolist(), [[3, 4, 5], [1, -100, -100]])
        self.assertEqual((batch["length"].tolist(), batch["number"].tolist()), ([3, 1], [2, 0]))

    def test_size(self):
        pad = Pad({"tokens": 0, "label": -100}, count="label")
        self.assertEqual(pad.size_of(pad([Texts()[2], Texts()[0]])), 4)
        self.assertIsNone(Pad({"tokens": 0}).size_of)

    def test_wrong_names(self):
        with self.assertRaisesRegex(ValueError, "count: expected one of tokens, found label"):
            Pad({"tokens": 0}, count="label")
        with self.assertRaisesRegex(UserError, "Pad: a sample has no 'words', found tokens, label, number"):
            Pad({"words": 0})([Texts()[2]])


class Train(EpochBasedTrainer):
    """Predicts the next token; every draw of the dropout counts."""

    def __init__(self, config, session):
        super().__init__(config, session)
        pad = Pad({"tokens": 0, "label": -100}, count="label")
        self.register_loader(make_loader(Texts(70), 8, training=True, collate_fn=pad), None)
        self.register_model(
            torch.nn.Sequential(torch.nn.Embedding(16, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 16))
        )
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))

    def train_step(self, epoch, iteration, data_dict):
        logits = self.model(data_dict["tokens"]).transpose(1, 2)
        return {"logits": logits}, {"loss": torch.nn.functional.cross_entropy(logits, data_dict["label"])}

    val_step = train_step


class TestTraining(test_cuts.TestCutsBase):
    """A batch is weighted by its tokens."""

    def make(self, name, set_up, cut, i=0):
        with unittest.mock.patch.dict(rich.TRAINERS, {"epoch": Train}):
            return super().make(name, set_up, cut, i)

    def test_accumulated_as_one_batch(self):
        """Three batches of 8 that are accumulated make the step of one batch of 24 samples."""
        weights = []
        for size, accumulate in ((24, 1), (8, 3)):
            keys = {"accumulate": accumulate, "non_finite": "stop"}
            trainer = Train(toy.make_config(keys, {"type": "SGD", "lr": 0.5}), toy.make_session(self))
            trainer.model[1].p = 0.0
            torch.manual_seed(0)
            for parameter in trainer.model.parameters():
                torch.nn.init.normal_(parameter)
            loader = make_loader(Texts(72), size, training=True, collate_fn=trainer.train_loader.collate_fn)
            trainer.register_loader(loader)
            trainer.run()
            weights.append(toy.weights_of(trainer))
        self.assertLess((weights[0] - weights[1]).abs().max(), 1e-5)

    def test_cut_within_a_window(self):
        set_up = {"mode": "epoch", "accumulate": 3, "checkpoint": {"best_metric": None}}
        whole = self.train("whole", set_up)
        cut = self.train("cut", set_up, {"iteration": 2}, {"iteration": 13}, {"iteration": 18})
        self.assertEqual(list(differences(whole, cut)), [])
