"""A run goes on with the settings it began with."""

import unittest
from dataclasses import dataclass

from loguru import logger

from common.config.errors import UserError
from common.config.schema import DatasetConfig
from common.state.resume_check import ResumeCheck
from tests.tests_common.engine import toy


def make(trainer=None, optim=None, progress=None, checkpoint=None, **keys):
    """Return the part of a run with these settings."""
    return ResumeCheck(
        toy.make_config(trainer, optim, progress, checkpoint, **{"model": {"type": "MLP"}, "user": None, **keys})
    )


@dataclass(frozen=True)
class User:
    """Keys of a project's own."""

    tau: float = 1.0


class TestContinuity(unittest.TestCase):
    """What may change, what may change if it is told so, and what may not."""

    def test_what_may_change(self):
        changed = make(
            {"early_stop": 3, "non_finite": "skip"},
            progress={"epoch": 99, "iter_val": 3},
            worker=2,
            name="other",
            dataset=DatasetConfig(train={"type": "A", "worker": 1}, val={"type": "C"}),
        )
        changed.load_state_dict(make(dataset=DatasetConfig(train={"type": "A"}, val={"type": "B"})).state_dict())

    def test_what_is_part_of_the_state(self):
        for keys, message in (
            ({"optim": {"type": "Adam"}}, 'optim.type was "SGD", is "Adam"'),
            ({"optim": {"lr_scheduler": {"type": "StepLR"}}}, 'optim.lr_scheduler.type was None, is "StepLR"'),
            ({"model": {"type": "MLP", "hidden": 3}}, "model.hidden was None, is 3"),
        ):
            for allow_changed in (False, True):
                with self.assertRaisesRegex(UserError, f"{message}.*--progress.start_epoch 0"):
                    make(**keys, checkpoint={"allow_changed": allow_changed}).load_state_dict(make().state_dict())

    def test_what_may_change_if_it_is_told_so(self):
        for keys, message in (
            ({"batch_size": 64}, "batch_size times processes was 32, is 64"),
            ({"trainer": {"seed": 1}}, "trainer.seed was 0, is 1"),
            ({"trainer": {"accumulate": 2}}, "trainer.accumulate was 1, is 2"),
            ({"optim": {"lr": 0.5}}, "optim.lr was 0.1, is 0.5"),
            ({"optim": {"clip_gradients": 1.0}}, "optim.clip_gradients was 0.0, is 1.0"),
            ({"loss": {"ce": {"weight": 2}}}, "loss.ce.weight was None, is 2"),
            ({"dataset": DatasetConfig(train={"type": "A"})}, 'dataset.train.type was None, is "A"'),
            ({"user": User(tau=2.0)}, "user.tau was None, is 2.0"),
        ):
            with self.assertRaisesRegex(UserError, f"not go on exactly: {message}.*--checkpoint.allow_changed true"):
                make(**keys).load_state_dict(make().state_dict())
            lines = []
            handler = logger.add(lines.append, format="{level} {message}")
            make(**keys, checkpoint={"allow_changed": True}).load_state_dict(make().state_dict())
            logger.remove(handler)
            self.assertIn(f"WARNING going on with changed settings: {message}", "".join(lines))

    def test_secrets_are_kept_as_digests(self):
        state = make(model={"api_keys": {"one": "geheim"}, "pin_token": 271828, "tokenizer": "small"}).state_dict()
        self.assertRegex(state["model.api_keys.one"], r'^"\*{3} [0-9a-f]{4}"$')
        self.assertRegex(state["model.pin_token"], r'^"\*{3} [0-9a-f]{4}"$')
        self.assertEqual(state["model.tokenizer"], '"small"')

    def test_a_changed_secret_is_noticed(self):
        train = {"api_key": "geheim", "keys": {"a": 1234567}, "root": "s3://me:word@host/x", "tokenizer": "small"}
        for key, value in (
            ("api_key", "other"),
            ("keys", {"a": 7654321}),
            ("root", "s3://me:other@host/x"),
            ("tokenizer", "big"),
        ):
            old = make(dataset=DatasetConfig(train=train)).state_dict()
            make(dataset=DatasetConfig(train=train)).load_state_dict(old)
            with self.assertRaisesRegex(UserError, rf"dataset\.train\.{key}\S* was .+, is ") as caught:
                make(dataset=DatasetConfig(train={**train, key: value})).load_state_dict(old)
            for secret in ("geheim", "1234567", "7654321", "word", "other"):
                self.assertNotIn(secret, str(caught.exception))

    def test_what_an_earlier_release_hid_without_a_digest_is_not_compared(self):
        train = {"api_key": "geheim", "keys": {"a": 1234567}, "root": "s3://me:word@host/x", "tokenizer": "small"}
        new = make(dataset=DatasetConfig(train=train))
        old = {**new.state_dict(), "dataset.train.api_key": '"***"', "dataset.train.tokenizer": '"***"'}
        new.load_state_dict({**old, "dataset.train.root": '"s3://***@host/x"', "dataset.train.keys.a": "1234567"})
        with self.assertRaisesRegex(UserError, "dataset.train.keys.a was") as caught:
            new.load_state_dict({**old, "dataset.train.keys.a": "7654321"})
        self.assertNotIn("7654321", str(caught.exception))
