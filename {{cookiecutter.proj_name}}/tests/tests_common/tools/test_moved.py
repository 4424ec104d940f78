"""Where the import paths of the previous release lead."""

import shutil
import subprocess
import sys
import tempfile
import unittest
from importlib.util import find_spec
from pathlib import Path

import common
from common.config.registry import has_room
from common.tools.moved import MOVED
from tests import needs_room

COMMON = Path(common.__file__).parent
ROOMS = ("vision", "measures", "diagnose", "sharding")


def run_python(script, folder=COMMON.parent):
    """Return a finished process that ran a script in a project."""
    return subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)


class TestMovedModules(unittest.TestCase):
    def test_each_leads_somewhere(self):
        for old, modules in MOVED.items():
            for module in modules:
                with self.subTest(old, module=module):
                    self.assertTrue(not has_room(module) or find_spec(f"common.{module}"))

    @needs_room("vision")
    @needs_room("measures")
    def test_what_the_files_of_a_project_import(self):
        script = """
from common.build import build_loader, build_loss, build_metric, build_model
from common.config import load_config
from common.datasets import ArrayDataset, BaseDataset, make_loader
from common.datasets.base_dataset import BaseDataset as TheSame
from common.distributed import get_rank, master_only
from common.engine import BaseTrainer, BatchTester, EpochBasedTrainer, IterBasedTrainer, SingleTester
from common.errors import UserError
from common import endpoints
from common.launch import Session, launch
from common.logger import add_log
from common.losses import LossSet
from common.metrics import BaseMetric, MeanMetric, MetricSet
from common.models import BaseModel
from common.optim import build_optimizer, build_scheduler
from common.registry import DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from common.schema import Config
import common, common.registry, common.config.registry
assert TheSame is BaseDataset is common.BaseDataset and LossSet is common.LossSet and MeanMetric is common.MeanMetric
assert Config is common.Config and BaseTrainer is common.Trainer and Session is common.Session
assert endpoints.scope is common.activations.scope and UserError is common.UserError
assert common.registry.MODEL_REGISTRY is common.config.registry.MODEL_REGISTRY is MODEL_REGISTRY
"""
        done = run_python(script)
        self.assertEqual(done.returncode, 0, done.stderr)
        warned = [line.partition("FutureWarning: ")[2] for line in done.stderr.splitlines() if "FutureWarning" in line]
        self.assertEqual(len(warned), len(set(warned)))
        for line in (
            "common.build has moved to common.config.build",
            "common.launch has moved to common.run.launch",
            "common.metrics has moved to common.log.metric or common.measures.torch_metric",
        ):
            self.assertIn(line, warned)
        self.assertNotIn("common.engine", " ".join(warned))

    @needs_room("vision")
    @needs_room("diagnose")
    def test_what_rooms_hold_now(self):
        script = """
from common.models import MLP, ResNet
from common.pictures import draw_samples
from common.profiling import profile_runtime
from common.transforms import Pipeline
"""
        done = run_python(script)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("common.pictures has moved to common.vision.pictures", done.stderr)

    def test_the_warning_names_the_file_that_imports_and_comes_once(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "mine.py")
            path.write_text("import os\nfrom common.errors import UserError\nfrom common.errors import RunError\n")
            done = run_python(f"import sys; sys.path.append({folder!r}); import mine")
        line = f"{path}:2: FutureWarning: common.errors has moved to common.config.errors"
        self.assertEqual([text for text in done.stderr.splitlines() if "Warning" in text], [line])

    def test_a_wrong_name_in_an_old_module(self):
        done = run_python("from common.errors import UserErorr")
        self.assertIn("ImportError: cannot import name 'UserErorr' from 'common.errors'", done.stderr)

    def test_the_function_launch_stands_beside_the_old_module_launch(self):
        script = "import common.launch; from common import launch, Config; print(type(launch(Config())).__name__)"
        self.assertEqual(run_python(script).stdout, "_GeneratorContextManager\n")

    def test_the_old_path_of_a_missing_room(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(COMMON, Path(folder, "common"), ignore=shutil.ignore_patterns(*ROOMS, "__pycache__"))
            for old, names, room in (
                ("common.pictures", "draw_samples", "vision"),
                ("common.losses", "DiceLoss", "measures"),
                ("common.profiling", "profile_runtime", "diagnose"),
            ):
                last = run_python(f"from {old} import {names}", folder).stderr.splitlines()[-1]
                self.assertTrue(last.startswith(f"ImportError: {old}: needs the room common/{room}, "), last)
            done = run_python("from common.losses import LossSet; print(LossSet.__name__)", folder)
            self.assertEqual(done.stdout, "LossSet\n", done.stderr)
