"""The shipped configs."""

import unittest
from dataclasses import fields, is_dataclass
from pathlib import Path

import yaml

from common.config.load import load_config
from common.config.registry import has_room
from common.config.schema import LOADER_KEYS, Config

ROOT = Path(__file__).resolve().parents[2]
UNNAMED = {"model_pt"} | (set() if has_room("deploy") else {"task"})  # keys that training does not need


class TestDefaultConfig(unittest.TestCase):
    def test_every_config_is_read(self):
        paths = sorted((ROOT / "configs").glob("*.yaml"))
        self.assertTrue(paths)
        for path in paths:
            with self.subTest(path.name):
                config = load_config(["--config", str(path)])
                self.assertTrue(config.model and config.metric)
                self.assertTrue(config.dataset.eval or not path.stem.startswith("eval"))

    def test_the_default_config_says_what_every_key_means(self):
        text = (ROOT / "configs" / "default.yaml").read_text()
        if "Keys that are not named here have the defaults that python train.py --help gives." in text:
            self.skipTest("the only example has a short config")
        found, evaluation = yaml.safe_load(text), yaml.safe_load((ROOT / "configs" / "eval.yaml").read_text())
        for field in fields(Config):
            value = getattr(Config(), field.name)
            if is_dataclass(value):
                missing = {one.name for one in fields(value)} - found[field.name].keys()
                self.assertEqual(missing, {"dir": {"eval_dir"}, "user": missing}.get(field.name, set()), field.name)
            else:
                self.assertEqual(field.name in found, field.name not in UNNAMED, field.name)
        self.assertTrue("model_pt" in evaluation and "eval_dir" in evaluation["dir"])
        for name in LOADER_KEYS:
            self.assertRegex(text, rf"  train: +# besides: .*\b{name}\b")
        for line in text.partition("\nmodel:")[0].splitlines():
            self.assertTrue("#" in line or not line or line.endswith((":", "]", "}")) or line[:4] == "    ", line)
