"""Secrets stay out of what others may read."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from urllib.parse import quote

from common.config.console import command
from common.config.load import load_config
from common.config.secrets import digest, find_secrets, hide, hide_in_code, redact

PROJECT = Path(__file__).parents[3]
# A run whose data set has secrets and gives them away wherever it can.
PROGRAM = """
import os

import torch
from torch import nn

from common import (
    DATASET_REGISTRY, ArrayDataset, Trainer, UserError, add_log, build_loader, build_optimizer, command, launch,
    load_config
)

ACCESS_TOKEN = "canary-in-code"

@DATASET_REGISTRY.register()
class Guarded(ArrayDataset):
    def __init__(self, data_dir, api_key, api_keys, pin_token, url, tokenizer):
        super().__init__(data_dir, x=torch.ones(4, 1))
        Guarded.said = f"{api_key} {api_keys} {pin_token} {url}"
        add_log(f"opening {Guarded.said}")

class Gossip(Trainer):
    def __init__(self, config, session):
        super().__init__(config, session)
        self.register_loader(build_loader(config, "train"))
        self.register_model(nn.Linear(1, 1))
        self.register_optimizer(build_optimizer(config.optim, self.model.parameters()))

    def train_step(self, epoch, iteration, data_dict):
        if "FAIL" in os.environ:
            kind = UserError if os.environ["FAIL"] == "user" else RuntimeError
            raise kind(f"cannot read {Guarded.said}")
        return {}, {"loss": self.model(data_dict["x"]).mean()}

    val_step = train_step

with command():
    config = load_config()
    with launch(config) as session:
        Gossip(config, session).run()
"""
SETTINGS = """
# keys:
#   one: x
#   two: x
#   three: x
#   four: canary-far
name: run
gpu_ids: -1
progress: {epoch: 1}
dataset:
  train:
    type: Guarded
    api_key: canary-plain
    api_keys: {one: "canary 'quoted'", more: [{two: 20260101}, canary-listed]}
    pin_token: 271828.5
    url: s3://canary:word@host/data
    tokenizer: small
"""


CONFIG = {
    "name": "run",
    "dataset": {
        "train": {"api_token": "t0k", "max_tokens": 512, "root": "s3://user:pa55@host/data", "keys": ["k1", "k2"]}
    },
    "model": {"hidden_sizes": [64], "Password": "geheim", "kind": "mlp", "tokenizer": "small", "use_token": True},
    "loss": {"api_keys": {"one": "k3y", "more": [{"two": 314159}]}, "pin_token": 12, "empty_token": ""},
}


class TestSecrets(unittest.TestCase):
    """Text under keys that say so, and credentials in addresses."""

    def test_redact(self):
        expected = {
            "name": "run",
            "dataset": {
                "train": {"api_token": "***", "max_tokens": 512, "root": "s3://***@host/data", "keys": ["***", "***"]}
            },
            "model": {"hidden_sizes": [64], "Password": "***", "kind": "mlp", "tokenizer": "small", "use_token": True},
            "loss": {"api_keys": {"one": "***", "more": [{"two": "***"}]}, "pin_token": "***", "empty_token": ""},
        }
        self.assertEqual(redact(CONFIG), expected)

    def test_find(self):
        self.assertEqual(find_secrets(CONFIG), {"t0k", "user:pa55", "k1", "k2", "geheim", "k3y", "314159"})

    def test_hide(self):
        text = hide("cannot open s3://a:b@host with geheim", ["geheim"])
        self.assertEqual(text, "cannot open s3://***@host with ***")
        # What is short, or a number, is no part of another word.
        self.assertEqual(hide("k1 k12 1234 12345 4-1234", ["k1", "1234"]), "*** k12 *** 12345 4-***")
        for secret in ("with 'quotes\"", "two\nlines", "slash\\es", "a/b?c=d&e", "Größe 3", "raw \udc80 bytes"):
            for form in (secret, repr(secret), json.dumps(secret), quote(secret, "", errors="replace")):
                self.assertNotIn(form.strip("'\""), hide(f"failed with {form}: {form}", find_secrets({"key": secret})))

    def test_names(self):
        secret = (
            "token api_token keys key2 Password PASSWORD_1 api_keys apikey api_key_prod AWS_SECRET_ACCESS_KEY hf-token"
        )
        plain = "tokenizer token_type key_dim keyframes hidden_sizes num_key_value_heads access_key_id"
        self.assertEqual(
            {name for name in f"{secret} {plain}".split() if redact("x", name) == "***"}, set(secret.split())
        )
        self.assertEqual(redact("x", "model.api_keys.one"), "***")
        self.assertRegex(digest("raw \udc80 bytes"), r"^\*{3} [0-9a-f]{4}$")

    def test_in_code(self):
        for text, expected in {
            'api_key = "abc"  # "x"': 'api_key = "***"  # "x"',
            "os.environ['HF_TOKEN'] = f'abc'": "os.environ['HF_TOKEN'] = f'***'",
            'def f(token: str | None = "abc", n=3):': 'def f(token: str | None = "***", n=3):',
            '{"password": "abc", "b": 1}': '{"password": "***", "b": 1}',
            'sorted(x, key=len), {"token": "", "x": "y"}': 'sorted(x, key=len), {"token": "", "x": "y"}',
        }.items():
            self.assertEqual(hide_in_code(text), expected)


class TestCanaries(unittest.TestCase):
    """What a run shows and writes, and what is refused before it starts."""

    CANARIES = ("canary", "20260101", "271828")

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        (self.folder / "go.py").write_text(PROGRAM)
        (self.folder / "a.yaml").write_text(SETTINGS)

    def run_program(self, *flags, expect=0, **environment):
        """Return what a run says, after a look at that and at each file but the one that only its owner can read."""
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
        command = [sys.executable, "go.py", "--config", "a.yaml", *flags]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        written = {path: path.read_bytes() for path in self.folder.glob("experiments/**/*") if path.is_file()}
        for path, content in {**written, Path("stdout and stderr"): (done.stdout + done.stderr).encode()}.items():
            if path.name != "cfg_backup.yaml":
                self.assertEqual([one for one in self.CANARIES if one.encode() in content], [], path)
        return done.stdout + done.stderr

    def test_runs(self):
        for words in (["init", "-q"], ["add", "go.py", "a.yaml"], ["commit", "-qm", "x"]):
            command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", *words]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        (self.folder / "go.py").write_text(PROGRAM.replace("canary-in-code", "canary-of-now"))
        # Far enough from the name that says so.
        (self.folder / "a.yaml").write_text(SETTINGS.replace("canary-far", "canary-farther"))
        self.run_program()
        folder = self.folder / "experiments" / "run"
        self.assertEqual((folder / "cfg_backup.yaml").stat().st_mode & 0o777, 0o600)
        self.assertIn("tokenizer: small", (folder / "cfg_public.yaml").read_text())
        environment = (folder / "environment.txt").read_text()
        self.assertIn('+ACCESS_TOKEN = "***"', environment)
        self.assertIn("a.yaml\nleft out, since this file seems to hold a secret", environment)
        resume = ("--resume", "auto", "--progress.epoch", "2")
        said = self.run_program(*resume, expect=1, FAIL="any")
        self.assertIn(
            "RuntimeError: cannot read *** {'one': \"***\", 'more': [{'two': ***}, '***']} *** s3://***@host", said
        )
        self.assertIn("error: cannot read ***", self.run_program(*resume, expect=2, FAIL="user"))
        said = self.run_program(*resume, "--dataset.train.api_keys.one=canary2", expect=2)
        self.assertIn("this run would not go on exactly: dataset.train.api_keys.one was", said)

    def test_what_is_refused(self):
        for flags in (
            ["--model.api_key", "canary", "canary"],
            ["--optim.lr", "{api_key: canary}"],
            ["--optim.lr.api_key", "canary"],
            ["--dataset.train.api_key.one", "x"],
            ["--dataset.train.api_keys.one.x", "x"],
            ["--dataset.train.url.x", "x"],
            ["--progress.epoch", "s3://canary:word@host"],
            ["--optim.secret", "canary"],
        ):
            with self.subTest(flags):
                self.refused(*flags)
        for text in (
            "api_key=canary",
            "- password: canary",
            "optim: {lr: {api_keys: {a: canary}}}",
            "optim: [key, {key: canary}]",
        ):
            (self.folder / "a.yaml").write_text(text)
            with self.subTest(text):
                self.refused()

    def refused(self, *flags):
        said = io.StringIO()
        with contextlib.redirect_stderr(said), self.assertRaises(SystemExit), command():
            load_config(["--config", str(self.folder / "a.yaml"), *flags])
        self.assertIn(" error: ", said.getvalue())
        self.assertNotIn("canary", said.getvalue())
