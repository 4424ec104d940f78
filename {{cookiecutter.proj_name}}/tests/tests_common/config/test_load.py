"""Config files and flags: what they may hold, and the one line that each mistake gets."""

import contextlib
import io
import os
import random
import re
import subprocess
import sys
import tempfile
import textwrap
import unittest
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass
from pathlib import Path
from unittest import mock

import yaml

from common.config.console import command
from common.config.load import dump_config, load_config
from common.config.schema import Config, OptimizerConfig

ROOT = Path(__file__).resolve().parents[3]
DEFAULTS = asdict(Config())


def keys(section=None, prefix=""):
    """Yield the dotted keys of the schema."""
    for field in fields(section or Config()):
        value = getattr(section or Config(), field.name)
        yield from keys(value, f"{prefix}{field.name}.") if is_dataclass(value) else [prefix + field.name]


class ConfigTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        program = mock.patch.object(sys, "argv", ["/somewhere/train.py"])
        program.start()
        self.addCleanup(program.stop)

    def file(self, text, name="a.yaml"):
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return str(path)

    def load(self, text, *flags, name="a.yaml"):
        return load_config(["--config", self.file(text, name), *flags])

    def exits(self, code, argv):
        """Return stdout and stderr of a call that must end with this exit code."""
        out, err = io.StringIO(), io.StringIO()
        streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with streams[0], streams[1], self.assertRaises(SystemExit) as end, command():
            load_config(list(argv))
        self.assertEqual(end.exception.code, code, err.getvalue())
        return out.getvalue(), err.getvalue()

    def refused(self, *argv):
        """Return the message that a command line gets, without the program's name and the folder's."""
        out, err = self.exits(2, argv)
        self.assertEqual(out, "")
        self.assertRegex(err, r"\Atrain\.py: error: [^\n]+\n\Z")
        return err.removeprefix("train.py: error: ").rstrip("\n").replace(f"{self.folder}/", "")

    def refused_file(self, text, *flags, name="a.yaml"):
        return self.refused("--config", self.file(text, name), *flags)


class TestFiles(ConfigTest):
    def test_no_file_is_all_defaults(self):
        self.assertEqual(load_config([]), Config())

    def test_empty_files_and_sections_are_defaults(self):
        for text in ("", "# nothing\n", "---\n", "{}", "optim:\nmodel:\nprogress: {}\noptim: \n"[:23]):
            with self.subTest(text):
                self.assertEqual(self.load(text), Config())

    def test_values(self):
        config = self.load(
            """
            name: digits
            model: {type: MLP, hidden: [64, 32], act: null}
            optim:
              lr: 3e-4
              named:
                generator: {lr: 2e-4, lr_scheduler: {type: StepLR}}
                discriminator:
            dataset:
              train: {type: Digits}
            """
        )
        self.assertEqual((config.name, config.optim.lr, config.dataset.val), ("digits", 3e-4, None))
        self.assertEqual(config.model, {"type": "MLP", "hidden": [64, 32], "act": None})
        self.assertEqual(config.optim.named["generator"], OptimizerConfig(lr=2e-4, lr_scheduler={"type": "StepLR"}))
        self.assertEqual(config.optim.named["discriminator"], OptimizerConfig())
        with self.assertRaises(FrozenInstanceError):
            config.name = "other"

    def test_config_and_configs_are_the_same(self):
        path = self.file("batch_size: 3")
        for argv in (["--config", path], ["--configs", path], [f"--config={path}"], [f"--configs={path}"]):
            self.assertEqual(load_config(argv).batch_size, 3)

    def test_numbers_and_dates(self):
        texts = {"1e-4": 1e-4, "3e4": 3e4, "-1.5E+3": -1500.0, ".5e2": 50.0, "1_0e1": 100.0, "1e": "1e", "e1": "e1"}
        texts |= {"'1e-4'": "1e-4", "2024-01-01": "2024-01-01", "1.2.3e4": "1.2.3e4", ".inf": float("inf"), "7": 7}
        for text, value in texts.items():
            with self.subTest(text):
                self.assertEqual(self.load(f"model: {{a: {text}, b: [{text}]}}").model, {"a": value, "b": [value]})

    def test_aliases_and_merge_keys(self):
        config = self.load("dataset: {train: &a {type: X, n: 1}, val: *a, eval: {<<: *a, n: 2}}", "--dataset.val.n=3")
        self.assertEqual([config.dataset.train["n"], config.dataset.val["n"], config.dataset.eval["n"]], [1, 3, 2])
        self.assertEqual(config.dataset.eval["type"], "X")

    def test_missing_file(self):
        self.file("", "default.yaml")
        path = str(self.folder / "defalt.yaml")
        self.assertEqual(
            self.refused("--config", path),
            "--config: defalt.yaml: No such file or directory, did you mean 'default.yaml'?",
        )
        self.assertIn("No such file", self.refused("--config", str(self.folder / "no" / "folder.yaml")))

    def test_not_a_file(self):
        self.assertIn("Is a directory", self.refused("--config", str(self.folder)))
        self.assertIn("no file", self.refused("--config="))
        self.assertIn("null byte", self.refused("--config", "a\0b"))
        for path in ("a" * 300, "a" * 300 + "/a.yaml", "a/" * 3000):
            self.assertIn("File name too long", self.refused("--config", path))

    @unittest.skipIf(hasattr(os, "geteuid") and os.geteuid() == 0, "root may read everything")
    def test_unreadable_file(self):
        path = Path(self.file(""))
        path.chmod(0)
        self.assertIn("Permission denied", self.refused("--config", str(path)))

    def test_two_files(self):
        message = self.refused("--config", self.file("name: a"), "--configs", self.file("name: b", "b.yaml"))
        self.assertEqual(message, "--config: expected one file, found a.yaml and b.yaml")

    def test_not_yaml(self):
        cases = {
            "a: 1\nmodel: [1, 2\n": "a.yaml:3: expected ',' or ']', but got '<stream end>'",
            "optim:\n\tlr: 1\n": "a.yaml:2: found character '\\t' that cannot start any token",
            "model:\n  a: 1\n  a: 2\n": "a.yaml:3: 'a' appears twice",
            "model:\n- {b: 1, b: 2}\n": "a.yaml:2: 'b' appears twice",
            "optim: {lr: 1}\nname: x\noptim: {}\n": "a.yaml:3: 'optim' appears twice",
            "model: !!python/object:os.system {}": "could not determine a constructor for the tag",
            "model: {a: !!timestamp 3, b: !!bool x}": "a.yaml: ",
            "model: {[1]: 2}": "a.yaml:1: found unhashable key",
            b"\xff\xfe\x00name": "a.yaml: ",
            bytes(range(256)): "a.yaml: ",
            "[a, b]": "a.yaml: expected keys and values, found ['a', 'b']",
            "just text": "a.yaml: expected keys and values, found 'just text'",
            "model: &a {b: *a}": "recursion",
            "model: {b: &a [*a]}": "recursion",
            "model: " + 3000 * "[": "recursion",
        }
        for text, message in cases.items():
            with self.subTest(text[:60]):
                self.assertIn(message, self.refused_file(text))

    def test_a_small_file_that_is_huge(self):
        for first, form in (("[x, x]", "[{}]"), ("{x: 1}", "{{<<: [{}]}}")):
            lines = [f"a: &a {first}"]
            for name, below in ("ba", "cb", "dc", "ed", "fe", "gf", "hg", "ih"):
                lines.append(f"{name}: &{name} {form.format(', '.join(9 * [f'*{below}']))}")
            with self.subTest(first):
                message = "a.yaml:6: its aliases make it more than 1,000,000 values"
                self.assertEqual(self.refused_file("\n".join(lines)), message)

    def test_wrong_keys(self):
        cases = {
            "name: x\nbatchsize: 3": "a.yaml:2: batchsize: unknown key, did you mean 'batch_size'?",
            "optim:\n  lr: 1\n  wormup: 3": "a.yaml:3: optim.wormup: unknown key, did you mean 'optim.warmup'?",
            "optim:\n named:\n  g: {lrr: 3}": "3: optim.named.g.lrr: unknown key, did you mean 'optim.named.g.lr'?",
            "lr: 3": "a.yaml:1: lr: unknown key, did you mean 'optim.lr'?",
            "dir: {zzz: 1}": "a.yaml:1: dir.zzz: unknown key, known: data_dir, eval_dir, expr_dir",
            "dataset:\n  test: {}": "a.yaml:2: dataset.test: unknown key, known: bad_sample, bad_sample_limit, eval",
            "1: 2": "a.yaml:1: 1: unknown key",
        }
        for text, message in cases.items():
            with self.subTest(text):
                self.assertIn(message, self.refused_file(text))

    def test_wrong_values(self):
        cases = {
            "name: x\noptim:\n  lr: abc": "a.yaml:3: optim.lr: expected a number above 0, found 'abc'",
            "batch_size: 3.0": "a.yaml:1: batch_size: expected a whole number from 1 to 10^9, found 3.0",
            "batch_size: true": "a.yaml:1: batch_size: expected a whole number from 1 to 10^9, found True",
            "batch_size: null": "a.yaml:1: batch_size: expected a whole number from 1 to 10^9, found None",
            "optim: {lr: true}": "a.yaml:1: optim.lr: expected a number above 0, found True",
            "optim: {lr: {a: 1}}": "a.yaml:1: optim.lr: expected a number above 0, found {'a': 1}",
            "optim: {clip_warmup: 1.5}": "a.yaml:1: optim.clip_warmup: expected a whole number, found 1.5",
            "name: 2024": "a.yaml:1: name: expected text, a folder name such as mlp/run1 in utf-8, "
            "with parts of up to 200 bytes, found 2024",
            "optim: {type: 3}": "a.yaml:1: optim.type: expected text (in quotes), found 3",
            "resume: 3": "a.yaml:1: resume: expected text (in quotes), a path in utf-8, with parts of up to 200 bytes, "
            "or null, found 3",
            "model_pt: 3": "a.yaml:1: model_pt: expected text (in quotes), a path in utf-8, with parts of up to 200 "
            "bytes, or null, found 3",
            "trainer: {compile: fast}": "a.yaml:1: trainer.compile: expected true, false, reduce-overhead or "
            "max-autotune, found 'fast'",
            "debug: {debug_mode: 1}": "a.yaml:1: debug.debug_mode: expected true or false, found 1",
            "trainer:\n  mode: step": "a.yaml:2: trainer.mode: expected one of epoch, iter, found 'step'",
            "dist: {backend: mpi}": "a.yaml:1: dist.backend: expected one of nccl, gloo, or null, found 'mpi'",
            "dist: {backend: None}": "a.yaml:1: dist.backend: found the text None; write null",
            "model: {a: {b: [1, None]}}": "a.yaml:1: model.a.b: found the text None; write null",
            "optim: 3": "a.yaml:1: optim: expected keys below it, found 3",
            "model: [1]": "a.yaml:1: model: expected keys below it, found [1]",
            "optim: {named: {g: 3}}": "a.yaml:1: optim.named.g: expected keys below it, found 3",
            "optim: {named: {lr: {lr: 0}}}": "a.yaml:1: optim.named.lr.lr: expected a number above 0, found 0",
        }
        for text, message in cases.items():
            with self.subTest(text):
                self.assertEqual(self.refused_file(text), message)

    def test_text_none_is_text_where_null_cannot_be(self):
        self.assertEqual(self.load("name: None").name, "None")


class TestFlags(ConfigTest):
    def test_any_position_and_either_form(self):
        path = self.file("optim: {lr: 1, warmup: 2}\nbatch_size: 3")
        for argv in (
            ["--config", path, "--optim.lr", "3e-4", "--batch_size=5"],
            ["--batch_size", "5", "--config", path, "--optim.lr=3e-4"],
            ["--optim.lr", "3e-4", "--batch_size", "5", "--config", path],
        ):
            config = load_config(argv)
            self.assertEqual((config.optim.lr, config.optim.warmup, config.batch_size), (3e-4, 2, 5))

    def test_the_last_of_two_wins(self):
        self.assertEqual(load_config(["--batch_size", "3", "--batch_size=4"]).batch_size, 4)
        argv = ["--model.a=1", "--model={b: 2}", "--model.a=3"]
        self.assertEqual(load_config(argv).model, {"a": 3, "b": 2})

    def test_typed_values(self):
        config = load_config(
            "--name 2024 --resume null --model_pt 1e-4 --optim.lr 1 --debug.debug_mode true --checkpoint.keep_last 3"
            " --progress.iters_per_epoch null --trainer.precision bf16 --optim.clip_warmup -1".split()
        )
        self.assertEqual((config.name, config.resume, config.model_pt), ("2024", None, "1e-4"))
        self.assertIsInstance(config.optim.lr, float)
        self.assertEqual((config.debug.debug_mode, config.checkpoint.keep_last), (True, 3))
        self.assertEqual((config.progress.iters_per_epoch, config.trainer.precision), (None, "bf16"))

    def test_profile(self):
        self.assertEqual(load_config(["--debug.profile", "[5, 9]"]).debug.profile, [5, 9])
        self.assertEqual(self.load("debug: {profile: [0, 1]}").debug.profile, [0, 1])
        for text in ("5", "[9, 5]", "[1, 2, 3]", "[-1, 4]", "x"):
            message = self.refused("--debug.profile", text)
            self.assertTrue(message.startswith("--debug.profile: expected two iterations, such as [50, 60], or null"))

    def test_gpu_ids(self):
        for text, value in {"-1": -1, "0": 0, "0,1,2": "0,1,2", "[0,1]": [0, 1], "null": None}.items():
            self.assertEqual(load_config(["--gpu_ids", text]).gpu_ids, value)
            self.assertEqual(self.load(f"gpu_ids: {text}").gpu_ids, value)
        for text in ("-2", "0,,1", "[]", "[-1, 0]", "1.5", "cuda", "[0", "0,1,", "-1,0", "", "true"):
            with self.subTest(text):
                message = self.refused("--gpu_ids", text)
                self.assertTrue(message.startswith("--gpu_ids: expected -1, 0 or several as in 0,1, or null, found "))

    def test_open_sections(self):
        path = self.file(
            """
            model: {type: MLP, hidden: 32}
            optim:
              lr_scheduler:
              named: {generator: {lr: 1e-3, warmup: 3}}
            dataset:
              train: {type: Digits, transforms: {flip: {p: 0.1, axis: 1}}}
            """
        )
        config = load_config(
            f"--config {path} --model.hidden 64 --model.act.type ReLU --dataset.train.transforms.flip.p 0.5"
            " --dataset.train.batch_size 64 --optim.lr_scheduler.eta_min 1e-5 --optim.named.generator.lr 2e-4"
            " --optim.named.discriminator.lr 4e-4 --dataset.val.type Digits --loss.ce.weight=1e-2".split()
        )
        self.assertEqual(config.model, {"type": "MLP", "hidden": 64, "act": {"type": "ReLU"}})
        train = {"type": "Digits", "transforms": {"flip": {"p": 0.5, "axis": 1}}, "batch_size": 64}
        self.assertEqual((config.dataset.train, config.dataset.val), (train, {"type": "Digits"}))
        self.assertEqual(config.optim.lr_scheduler, {"eta_min": 1e-5})
        self.assertEqual(config.optim.named["generator"], OptimizerConfig(lr=2e-4, warmup=3))
        self.assertEqual(config.optim.named["discriminator"], OptimizerConfig(lr=4e-4))
        self.assertEqual(config.loss, {"ce": {"weight": 1e-2}})

    def test_a_type_keeps_its_neighbors_and_a_mapping_replaces_them(self):
        text = "optim: {lr_scheduler: {type: StepLR, step_size: 3}}\ndataset: {val: {type: X}}"
        kept = self.load(text, "--optim.lr_scheduler.type", "ExponentialLR").optim.lr_scheduler
        replaced = self.load(text, "--optim.lr_scheduler", "{type: ExponentialLR}").optim.lr_scheduler
        self.assertEqual(kept, {"type": "ExponentialLR", "step_size": 3})
        self.assertEqual(replaced, {"type": "ExponentialLR"})
        self.assertIsNone(self.load(text, "--dataset.val", "null").dataset.val)
        self.assertEqual(load_config(["--optim.named", "{g: {lr: 2}}"]).optim.named, {"g": OptimizerConfig(lr=2.0)})

    def test_plain_scalars_in_open_sections(self):
        texts = {"64": 64, "1e-4": 1e-4, "true": True, "null": None, "MLP": "MLP", "*.png": "*.png", "#fff": "#fff"}
        texts |= {"a: b": "a: b", "[1, 2e-1]": [1, 0.2], "{a: {b: 1}}": {"a": {"b": 1}}, "'64'": "64", "-1": -1}
        texts |= {"- a": "- a", "@x": "@x", "&x": "&x", "a #b": "a #b", "2024-01-01": "2024-01-01"}
        for text, value in texts.items():
            with self.subTest(text):
                self.assertEqual(load_config(["--model.x", text]).model, {"x": value})

    def test_mistakes(self):
        cases = {
            "--optim.lrr 3": "--optim.lrr: unknown key, did you mean '--optim.lr'?",
            "--optim.named.g.lrr 3": "--optim.named.g.lrr: unknown key, did you mean '--optim.named.g.lr'?",
            "--optim.named={g:{lrr:}}": "--optim.named.g.lrr: unknown key, did you mean '--optim.named.g.lr'?",
            "--lr 3": "--lr: unknown key, did you mean '--optim.lr'?",
            "--optm.lr 3": "--optm: unknown key, did you mean '--optim'?",
            "--dir.zzz 3": "--dir.zzz: unknown key, known: data_dir, eval_dir, expr_dir",
            "--batch 3": "--batch: unknown key",
            "--conf a.yaml": "--conf: unknown key, known: ",
            "--optim.lr": "--optim.lr: the value is missing",
            "--optim.lr --name x": "--optim.lr: the value is missing",
            "--config": "--config: the value is missing",
            "train": "train: expected a flag and its value, such as --optim.lr 3e-4",
            "--optim.lr 3 4": "4: expected a flag and its value",
            "-lr 3": "-lr: expected a flag",
            "-- x": "--: expected a flag",
            "--optim.lr=": "--optim.lr: expected a number above 0, found ''",
            "--optim.lr.x 3": "--optim.lr: expected a number above 0, found {'x': '3'}",
            "--optim 3": "--optim: expected keys below it, found '3'",
            "--model MLP": "--model: expected keys below it, found 'MLP'",
            "--model.x=[1": "--model.x: expected ',' or ']'",
            "--model.x=None": "--model.x: found the text None; write null",
            "--resume None": "--resume: found the text None; write null",
            "--model.x={a:1,a:1,": "--model.x: ",
            "--trainer.mode step": "--trainer.mode: expected one of epoch, iter, found 'step'",
            "--progress.epoch 1.5": "--progress.epoch: expected a whole number from 1 to 10^9, found '1.5'",
            "--debug.debug_mode 3": "--debug.debug_mode: expected true or false, found '3'",
        }
        for line, message in cases.items():
            with self.subTest(line):
                self.assertIn(message, self.refused(*line.split()))

    def test_a_key_below_a_value(self):
        message = self.refused_file("model: {hidden: [64]}", "--model.hidden.0", "32")
        self.assertEqual(message, "--model.hidden.0: hidden is [64], not a section")

    def test_a_file_may_be_named_like_anything(self):
        message = self.refused_file("lr: 3", name="a\nb {x}.yaml")
        self.assertEqual(message, "a b {x}.yaml:1: lr: unknown key, did you mean 'optim.lr'?")


class TestLimits(ConfigTest):
    def test_bounds(self):
        cases = {
            "batch_size accumulate=trainer epoch=progress iters_per_epoch=progress keep_last=checkpoint timeout=dist"
            " nproc=dist tp_size=dist shard_size=dist"
            " max_samples_val=progress max_samples_eval=progress": ("1", "0"),
            "worker warmup=optim seed=trainer early_stop_delta=trainer epoch_loss=progress iter_loss=progress"
            " epoch_val=progress iter_val=progress epoch_eval=progress epoch_save_progress=progress"
            " epoch_save_checkpoint=progress iter_save_checkpoint=progress save_time=progress weight_decay=optim"
            " clip_gradients=optim clip_gradients_warmup=optim early_stop=trainer": ("0", "-1"),
            "epoch=progress iters_per_epoch=progress timeout=dist": ("1000000000", "1000000001 1000000000000000"),
            "nproc=dist worker": ("1000", "1001"),
            "lr=optim lr=optim.named.g": ("1e-9", "0 -1 .nan .inf"),
            "ema_decay=optim": ("0 0.9999", "1 -0.1 .nan"),
            "warmup_factor=optim": ("1e-3 1", "0 1.1 .nan"),
            "weight_decay=optim save_time=progress clip_gradients=optim": ("0.5", ".nan .inf -1e-9"),
            "start_epoch=progress": ("-1 0", "1 -2"),
            "seed=trainer": ("4294967295", "4294967296"),
        }
        for names, (good, bad) in cases.items():
            for name, section in (part.split("=") if "=" in part else (part, "") for part in names.split()):
                flag = f"--{section}.{name}".replace("--.", "--")
                for text in good.split():
                    load_config([flag, text])
                for text in bad.split():
                    with self.subTest(flag, text=text):
                        self.assertRegex(self.refused(flag, text), f"^{flag}: expected .*, found '{text}'$")

    def test_paths(self):
        for flag in ("--resume", "--model_pt", "--dir.expr_dir", "--dir.data_dir", "--dir.eval_dir", "--name"):
            for text in ("a\0b", "a" * 201, "a/" + "ö" * 101, "/".join(["a" * 190] * 11)):
                with self.subTest(flag, text=text):
                    self.assertIn(f"{flag}: expected text", self.refused(flag, text))
            for text in ("a" * 200, "ö" * 100, "/".join(["a" * 190] * 10)):
                load_config([flag, text])

    def test_null_where_it_is_a_value(self):
        load_config(
            "--progress.iters_per_epoch null --checkpoint.keep_last null --progress.max_samples_eval null".split()
        )
        self.assertIn("or null", self.refused("--checkpoint.keep_last", "0"))

    def test_names(self):
        for name in ("mlp", "mlp/run1", "{time}", "digits-{time}", "2024", "Größe 3", "a.b"):
            self.assertEqual(load_config(["--name", name]).name, name)
        for name in ("", ".", "..", "../x", "a/../b", "a/..", "/tmp/x", "a\nb", "a\0b", "-x", "~/x", " "):
            with self.subTest(name):
                self.assertIn("--name: expected text, a folder name", self.refused(f"--name={name}"))

    def test_what_watches_the_best_metric_needs_one(self):
        needs = "needs checkpoint.best_metric, the validation result to watch"
        plateau = "optim:\n  lr_scheduler: {type: ReduceLROnPlateau}"
        named = "optim:\n  named: {g: {lr_scheduler: {type: ReduceLROnPlateau}}}"
        self.assertEqual(self.refused("--trainer.early_stop", "3"), f"--trainer.early_stop: {needs}")
        self.assertEqual(self.refused_file("trainer:\n  early_stop: 3"), f"a.yaml:2: trainer.early_stop: {needs}")
        self.assertEqual(self.refused_file(plateau), f"a.yaml:2: optim.lr_scheduler: {needs}")
        self.assertEqual(self.refused_file(named), f"a.yaml:2: optim.named.g.lr_scheduler: {needs}")
        message = self.refused("--optim.named={g: {lr_scheduler: {type: ReduceLROnPlateau}}}")
        self.assertEqual(message, f"--optim.named.g.lr_scheduler: {needs}")
        for text in (plateau, named):
            self.load(text, "--checkpoint.best_metric", "accuracy", "--trainer.early_stop=3")


class TestDump(ConfigTest):
    def test_the_defaults_in_the_schemas_order(self):
        text = dump_config(Config())
        self.assertEqual(list(yaml.safe_load(text)), list(DEFAULTS))
        self.assertEqual(list(yaml.safe_load(text)["optim"]), list(DEFAULTS["optim"]))
        self.assertEqual(self.load(text), Config())

    def test_what_is_dumped_is_read_back(self):
        values = [None, True, 0, -7, 1e-4, 1e20, 0.1, "", "1e-4", "3E5", "null", "~", "yes", "1", "0x1f", "2024-01-01"]
        values += ["a: b", "#x", "*x", "x\ny", " x ", "é", "\u2028", "\x07", "- a", "[", "=", "<<", "1:30", "x" * 300]
        values += [[], {}, [[1], {"a": None}], {1: 2, "1": 3, "b.c": {"d": []}}, float("inf"), "\U0001f600"]
        config = Config(model={f"key{i}": value for i, value in enumerate(values)}, loss={"ce": {"values": values}})
        self.assertEqual(self.load(dump_config(config)), config)

    def test_a_whole_config_is_read_back(self):
        config = self.load(
            "optim: {named: {g: {lr: 1e-5, args: {betas: [0.5, 0.9]}}}}\ndataset: {val: {a: [1, {b: 2}]}}",
            "--gpu_ids=[0, 1]",
            "--name={time}/x",
            "--dist.backend=gloo",
        )
        self.assertEqual(self.load(dump_config(config)), config)


class TestHelp(ConfigTest):
    def test_every_key_with_its_meaning(self):
        with mock.patch.dict(os.environ, COLUMNS="100"):
            out, err = self.exits(0, ["--optim.lr", "nonsense", "--help"])
        self.assertEqual(err, "")
        for key in keys():
            self.assertRegex(out, rf"(?m)^  --{key}\s")
        text = " ".join(out.split())
        self.assertIn("Learning rate. Never changed behind your back", text)
        self.assertIn("(a number above 0; default: 0.001)", text)
        for title in ("Looking for a fault:", "Optimizer, schedule, clipping:", "When things happen:", "Data sets:"):
            self.assertIn(f"\n{title}\n", out)
        self.assertEqual(self.exits(0, ["-h"])[0].count("usage: "), 1)

    def test_every_count_says_what_it_counts(self):
        units = "epoch iteration step sample second rocess checkpoint validation best".split()
        with mock.patch.dict(os.environ, COLUMNS="1000"):
            out = self.exits(0, ["--help"])[0]
        counts = dict(re.findall(r"\n  --(\S+) \S+\s+(.*) \(a whole number.*; default: .*\)", out))
        self.assertGreater(len(counts), 25)
        for key in counts.keys() - {"trainer.seed", "progress.start_epoch"}:
            self.assertTrue(any(unit in counts[key] for unit in units), f"{key}: {counts[key]}")
        for key in ("iter_loss", "iter_val", "iter_save_progress", "iter_save_checkpoint"):
            self.assertIn("every so many iterations (or optimizer steps: iter_unit)", counts[f"progress.{key}"])

    def test_no_noise(self):
        out = self.exits(0, ["--help"])[0]
        self.assertRegex(out, r"\Ausage: train\.py \[--config FILE\] \[--key value \.\.\.\]\n\n")
        for noise in ("CONFIG", "OptimizerConfig(", ".help", "ids+", "Path to a configuration file", "==SUPPRESS=="):
            self.assertNotIn(noise, out)

    def test_print_config(self):
        path = self.file("batch_size: 3\nmodel: {a: 1}")
        for argv in (
            ["--print_config", "--config", path, "--model.b=2"],
            ["--model.b", "2", "--config", path, "--print_config"],
        ):
            out, err = self.exits(0, argv)
            self.assertEqual(err, "")
            self.assertEqual(self.load(out), Config(batch_size=3, model={"a": 1, "b": 2}))
        self.assertIn("--lr: unknown key", self.refused("--print_config", "--lr", "3"))


class TestProcess(ConfigTest):
    def run_python(self, *argv, **environment):
        code = (
            "import atexit, sys; sys.argv[0] = 'train.py'\n"
            "atexit.register(lambda: print('torch' in sys.modules))\n"
            "from common.config import command, load_config\n"
            "with command(): print(load_config().optim.lr)"
        )
        command = [sys.executable, "-c", code, *argv]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)

    def test_answers_without_torch(self):
        wrong = self.run_python("--optim.lrr", "3")
        self.assertEqual((wrong.returncode, wrong.stdout), (2, "False\n"))
        self.assertEqual(wrong.stderr, "train.py: error: --optim.lrr: unknown key, did you mean '--optim.lr'?\n")
        for argv in (["--help"], ["--print_config"]):
            answer = self.run_python(*argv)
            self.assertEqual((answer.returncode, answer.stderr), (0, ""))
            self.assertTrue(answer.stdout.endswith("False\n"))

    def test_the_environment_is_no_config(self):
        found = self.run_python(JSONARGPARSE_DEFAULT_ENV="true", OPTIM__LR="7", VALUE="7", OPTIM="x", CONFIG="nosuch")
        self.assertEqual((found.returncode, found.stdout, found.stderr), (0, "0.001\nFalse\n", ""))


class TestAnything(ConfigTest):
    """Whatever stands on the line or in the file: a config, or one line and exit code 2."""

    WORDS = (
        """
        a b.c optim lr optim.lr named g model model.x model.x.y dataset.train dataset.train.type loss.ce metric config
        1 -1 1e-4 .nan null None true ~ [1,2] [a, {a:1} {a: {x x} [[ ' " # & &a *a ! !!set !!timestamp !!binary = << |
        > % @ ` --- ... - -- --x : ? , 0x10 1:30 2024-01-01 é \udc80 \ufeff \x00 \x07 ReduceLROnPlateau
    """.split()
        + ["", " ", "\n", "\t", "a: b", "\n  ", ": ", "9" * 5000]
    )

    def test_flags_and_files(self):
        chance = random.Random(0)
        for _ in range(400):
            text = "".join(chance.choices([*self.WORDS, ": ", "\n", "\n  "], k=chance.randrange(9)))
            path = self.file(text.encode(errors="surrogatepass"))
            flags = [f"--{chance.choice(self.WORDS)}={chance.choice(self.WORDS)}" for _ in range(chance.randrange(3))]
            with self.subTest(text=text, flags=flags):
                self.one_line_or_config([*flags, *chance.choice([[], ["--config", path], [chance.choice(self.WORDS)]])])

    def one_line_or_config(self, argv):
        err = io.StringIO()
        try:
            with contextlib.redirect_stderr(err), command():
                self.assertIsInstance(load_config(argv), Config)
        except SystemExit as end:
            self.assertEqual(end.code, 2)
            self.assertRegex(err.getvalue(), r"\Atrain\.py: error: [^\n]+\n\Z")


if __name__ == "__main__":
    unittest.main()
