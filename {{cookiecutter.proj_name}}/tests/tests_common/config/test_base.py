"""Config files on the base of others: what is merged, what is replaced, and what cannot be read."""

import os
import unittest
from unittest import mock

import yaml

from common.config.load import dump_config, load_config
from common.config.schema import Config, OptimizerConfig
from tests import needs_room
from tests.tests_common.config.test_load import ConfigTest


class TestBase(ConfigTest):
    def file(self, text, name="a.yaml"):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        return super().file(text, name)

    def over(self, base, text, *flags):
        """Return the config of a file on the base of another one."""
        self.file(base, "base.yaml")
        return self.load(f"base: base.yaml\n{text}", *flags)

    def test_a_file_says_what_it_changes(self):
        config = self.over(
            "batch_size: 8\noptim: {lr: 1, warmup: 2}\nmodel: {type: MLP, act: {type: ReLU, slope: 1}, width: 3}",
            "optim: {lr: 2}\nmodel: {act: {slope: 2}, depth: 4}",
        )
        self.assertEqual((config.batch_size, config.optim.lr, config.optim.warmup), (8, 2.0, 2))
        self.assertEqual(config.model, {"type": "MLP", "act": {"type": "ReLU", "slope": 2}, "width": 3, "depth": 4})

    def test_lists_values_and_null_are_replaced(self):
        base = "model: {type: A, sizes: [1, 2, 3], act: {type: ReLU}}\ndataset: {val: {type: X}}\ngpu_ids: 0"
        config = self.over(base, "model: {sizes: [4], act: null}\ndataset: {val: null}\ngpu_ids: null")
        self.assertEqual(config.model, {"type": "A", "sizes": [4], "act": None})
        self.assertEqual((config.dataset.val, config.gpu_ids), (None, None))
        self.assertEqual(self.over("model: {a: [{b: 1, c: 2}]}", "model: {a: [{b: 3}]}").model, {"a": [{"b": 3}]})

    def test_an_empty_section_changes_nothing(self):
        config = self.over("optim: {lr: 2, named: {g: {lr: 3}}}", "optim:\n  named: {g: }\nprogress:\n")
        self.assertEqual((config.optim.lr, config.optim.named), (2.0, {"g": OptimizerConfig(lr=3.0)}))
        self.assertEqual(self.over("optim: {lr: 2}", "optim:\n").optim.lr, 2.0)
        config = self.over("metric: {a: {type: A}}\nmodel: {b: 1}\nbatch_size: 3", "metric:\nmodel:\n")
        self.assertEqual((config.metric, config.model), ({"a": {"type": "A"}}, {"b": 1}))
        self.file("batch_size: 3", "base.yaml")
        message = "a.yaml:2: batch_size: expected a whole number from 1 to 10^9, found None"
        self.assertEqual(self.refused_file("base: base.yaml\nbatch_size: null"), message)

    def test_another_type_brings_its_own_arguments(self):
        base = """
            model: {type: A, width: 3, act: {type: ReLU, slope: 1}}
            optim: {type: AdamW, lr: 2, args: {betas: [0, 1]}, lr_scheduler: {type: StepLR, step_size: 3}}
            loss: {ce: {type: X, gamma: 2}}
        """
        config = self.over(
            base,
            "model: {type: B}\noptim: {type: SGD, lr_scheduler: {type: ExponentialLR}}\nloss: {ce: {type: Y}}",
        )
        self.assertEqual((config.model, config.loss), ({"type": "B"}, {"ce": {"type": "Y"}}))
        self.assertEqual((config.optim.type, config.optim.lr, config.optim.args), ("SGD", 2.0, {}))
        self.assertEqual(config.optim.lr_scheduler, {"type": "ExponentialLR"})
        inner = self.over(base, "model: {act: {type: GELU}}\noptim: {type: AdamW, args: {eps: 1}}")
        self.assertEqual(inner.model, {"type": "A", "width": 3, "act": {"type": "GELU"}})
        self.assertEqual(inner.optim.args, {"betas": [0, 1], "eps": 1})
        self.assertEqual(self.over("model: {width: 3}", "model: {type: B}").model, {"type": "B", "width": 3})

    def test_null_leaves_out_a_loss_and_a_metric(self):
        config = self.over(
            "loss: {ce: {type: X}, l1: {type: Y}}\nmetric: {a: {type: A}}",
            "loss: {ce: null}\nmetric: {a: null, b: {type: B}}",
            "--metric.c=null",
        )
        self.assertEqual((config.loss, config.metric), ({"l1": {"type": "Y"}}, {"b": {"type": "B"}}))
        self.assertEqual(self.refused_file("loss: {ce: 3}"), "a.yaml:1: loss.ce: expected keys below it, found 3")

    def test_flags_come_last(self):
        config = self.over("batch_size: 1\nmodel: {type: A, n: 1}", "batch_size: 2", "--batch_size=3", "--model.type=B")
        self.assertEqual((config.batch_size, config.model), (3, {"type": "B", "n": 1}))

    def test_chains_through_folders(self):
        self.file("base: ../b/two.yaml\nname: one", "a/one.yaml")
        self.file("base: deeper/three.yaml\nname: two\nbatch_size: 2", "b/two.yaml")
        self.file(f"base: {self.folder}/four.yaml\nname: three\nbatch_size: 3\nworker: 3", "b/deeper/three.yaml")
        self.file("optim: {lr: 4}\nworker: 4\nbase: null", "four.yaml")
        for path in (str(self.folder / "a/one.yaml"), os.path.relpath(self.folder / "a/one.yaml")):
            config = load_config(["--config", path])
            found = (config.name, config.batch_size, config.worker, config.optim.lr)
            self.assertEqual(found, ("one", 2, 3, 4.0))
        (self.folder / "link.yaml").symlink_to("b/two.yaml")  # relative to the place where it was named
        self.assertIn(
            "link.yaml:1: base: deeper/three.yaml: No such", self.refused("--config", str(self.folder / "link.yaml"))
        )

    def test_circles(self):
        self.assertEqual(self.refused_file("base: a.yaml"), "a.yaml:1: base: a circle of files: a.yaml -> a.yaml")
        self.file("base: c.yaml", "b.yaml")
        self.file("name: x\nbase: ./a.yaml", "c.yaml")
        message = "c.yaml:2: base: a circle of files: a.yaml -> b.yaml -> c.yaml -> ./a.yaml"
        self.assertEqual(self.refused_file("base: b.yaml"), message)

    def test_bases_that_cannot_be_read(self):
        self.file("", "default.yaml")
        (self.folder / "folder").mkdir()
        cases = {
            "name: x\nbase: defalt.yaml": "a.yaml:2: base: defalt.yaml: No such file or directory, "
            "did you mean 'default.yaml'?",
            "base: folder": "a.yaml:1: base: folder: Is a directory",
            "base: ''": "a.yaml:1: base: : Is a directory",
            'base: "a\\0b"': "a.yaml:1: base: a\0b: embedded null byte",
            "base: 3": "a.yaml:1: base: expected the path of a config file, found 3",
            "base: [default.yaml]": "a.yaml:1: base: expected the path of a config file, found ['default.yaml']",
            "model: {base: x}\nbase: {}": "a.yaml:2: base: expected the path of a config file, found {}",
        }
        for text, message in cases.items():
            with self.subTest(text):
                self.assertEqual(self.refused_file(text), message)
        self.file("[1", "default.yaml")
        self.assertIn("default.yaml:1: expected ',' or ']'", self.refused_file("base: default.yaml"))
        self.file("just text", "default.yaml")
        self.assertIn("default.yaml: expected keys and values", self.refused_file("base: default.yaml"))
        self.assertEqual(self.refused("--base", "default.yaml")[:19], "--base: unknown key")

    def test_a_mistake_is_named_where_it_stands(self):
        self.file("name: b\noptim:\n  lrr: 3\n  lr: 1", "base.yaml")
        message = "base.yaml:3: optim.lrr: unknown key, did you mean 'optim.lr'?"
        self.assertEqual(self.refused_file("base: base.yaml\noptim:\n  lr: 2"), message)
        self.file("optim:\n  lr: 1", "base.yaml")
        message = "a.yaml:3: optim.lr: expected a number above 0, found 'x'"
        self.assertEqual(self.refused_file("base: base.yaml\noptim:\n  lr: x"), message)
        message = "--optim.lr: expected a number above 0, found 'y'"
        self.assertEqual(self.refused_file("base: base.yaml\noptim:\n  lr: x", "--optim.lr=y"), message)
        self.file("optim: 3", "base.yaml")
        self.assertEqual(self.refused_file("base: base.yaml"), "base.yaml:1: optim: expected keys below it, found 3")
        self.file("trainer:\n  early_stop: 3", "base.yaml")
        self.assertIn("base.yaml:2: trainer.early_stop: needs", self.refused_file("base: base.yaml\nname: x"))

    def test_aliases_stay_apart(self):
        config = self.over("dataset: {train: &a {type: X, n: 1}, val: *a}", "dataset: {val: {n: 2}}")
        self.assertEqual([config.dataset.train["n"], config.dataset.val["n"]], [1, 2])

    def test_the_backup_needs_no_base(self):
        config = self.over("batch_size: 3\nloss: {a: {type: X}}", "loss: {a: null, b: {type: Y}}")
        text = dump_config(config)
        self.assertNotIn("base", yaml.safe_load(text))
        (self.folder / "base.yaml").unlink()
        self.assertEqual(self.load(text, name="cfg_backup.yaml"), config)

    @needs_room("tools")
    def test_python_files(self):
        self.file("base: base.py\nbatch_size: 3")
        self.file("base = 'more/' + 'yours.yaml'\nbatch_size = 2\noptim = dict(lr=1 / 8)\nworker = 1", "base.py")
        self.file("optim: {warmup: 7}\nworker: 2", "more/yours.yaml")
        config = load_config(["--config", str(self.folder / "a.yaml")])
        self.assertEqual((config.batch_size, config.worker, config.optim.lr, config.optim.warmup), (3, 1, 0.125, 7))
        self.assertEqual(load_config(["--config", str(self.folder / "base.py")]).batch_size, 2)
        self.file("base = 'base.py'", "base.py")
        message = self.refused("--config", str(self.folder / "base.py"))
        self.assertEqual(message, "base.py: base: a circle of files: base.py -> base.py")


class TestPrintConfig(ConfigTest):
    def lines(self, *argv):
        """Return the text, and by key the comment behind each line."""
        text, _ = self.exits(0, [*argv, "--print_config"])
        pairs = (line.partition(" # ")[::2] for line in text.splitlines())
        return text, {line.strip(): comment for line, comment in pairs}

    @needs_room("tools")
    def test_each_value_says_where_it_comes_from(self):
        self.file(
            "batch_size: 8\nmodel: {type: A, act: {slope: 1}, sizes: [1, [2, 3]], none: []}\nworker: 1", "base.yaml"
        )
        path = self.file("base: base.yaml\nworker: 2\nmodel: {act: {slope: 2}, words: 'a b\n\n  # c'}")
        text, comments = self.lines("--config", path, "--optim.lr", "2", "--dataset.val={type: X, n: 1}")
        base = f"{self.folder}/base.yaml"
        expected = {
            "batch_size: 8": base, "worker: 2": path, "lr: 2.0": "flag", "warmup: 0": "", "type: A": base,
            "slope: 2": path, "sizes:": base, "none: []": base, "type: X": "flag", "n: 1": "flag", "act:": "",
        }  # fmt: skip
        for line, comment in expected.items():
            self.assertEqual(comments[line], comment, line)
        argv = ["--config", path, "--optim.lr", "2", "--dataset.val={type: X, n: 1}"]
        self.assertEqual(self.load(text, name="b.yaml"), load_config(argv))

    @needs_room("tools")
    def test_whatever_is_printed_is_read_back(self):
        values = ["a: b", "#x", "x\ny", " x ", "\u2028", "\x07", "- a", "x" * 300, "x y " * 100, "a\n\n# b\n", [], {}]
        values += [[[1], {"a": None}], {1: 2, "k " * 100: [3], "l" * 200: {"m": "n\no"}}, [""], "é # a"]
        config = Config(model={f"key{i}": value for i, value in enumerate(values)})
        path = self.file(dump_config(config), "\x07ä\n # :{x}.yaml")
        text, comments = self.lines("--config", path)
        self.assertEqual(self.load(text), config)
        self.assertGreater(sum(comment != "" for comment in comments.values()), 80)

    def test_without_the_room_it_is_the_config_alone(self):
        path = self.file("batch_size: 3")
        with mock.patch("common.config.registry.has_room", return_value=False):
            text, _ = self.exits(0, ["--config", path, "--print_config"])
        self.assertEqual(text, dump_config(load_config(["--config", path])))


if __name__ == "__main__":
    unittest.main()
