"""The command that draws a batch, in a project of its own."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from PIL import Image

from tests import needs_room

PROJECT = Path(__file__).parents[3]
TRAINER = """
import torch
from common import DATASET_REGISTRY, ArrayDataset

@DATASET_REGISTRY.register()
class Ones(ArrayDataset):
    def __init__(self, data_dir, masks=False):
        more = {"mask": torch.ones(20, 1, 4, 4)} if masks else {"label": torch.arange(20)}
        super().__init__(data_dir, image=torch.rand(20, 1, 4, 4), **more)

@DATASET_REGISTRY.register()
class Features(ArrayDataset):
    def __init__(self, data_dir):
        super().__init__(data_dir, image=torch.rand(20, 16), label=torch.rand(20, 3))
"""
CONFIG = """
batch_size: 16
dataset: {train: {type: Ones, batch_transforms: [{type: RandomFlip}]}}
"""


@needs_room("images")
class TestShowBatch(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        (self.folder / "mine" / "trainers").mkdir(parents=True)
        (self.folder / "mine" / "__init__.py").write_text(TRAINER)
        (self.folder / "common").symlink_to(PROJECT / "common")
        (self.folder / "config.yaml").write_text(CONFIG)

    def start(self, *args, expect=0):
        command = [sys.executable, "-m", "common.tools.show_batch", *args]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done.stdout if expect == 0 else done.stderr

    def test_labels_and_masks(self):
        shown = self.start("--config", "config.yaml", "--count", "9", "--out", "batch.png")
        self.assertEqual(shown, "batch.png\n")
        labels = Image.open(self.folder / "batch.png").size
        self.assertEqual(labels, (9 * 114 + 12, 144))
        self.start("--config", "config.yaml", "--count", "9", "--dataset.train.masks", "true")
        self.assertGreater(Image.open(self.folder / "batch.png").width, labels[0])

    def test_mistakes(self):
        self.assertIn("python -m common.tools.show_batch", self.start("--help"))
        shown = self.start("--config", "config.yaml", "--optim.lrr", "1", expect=2)
        self.assertRegex(shown, r"error: --optim.lrr: unknown key, did you mean '--optim.lr'\?\n$")
        shown = self.start("--config", "config.yaml", "--split", "val", expect=2)
        self.assertEqual(shown, "show_batch.py: error: dataset.val: expected a section with a 'type', found nothing\n")
        shown = self.start("--config", "config.yaml", "--dataset.val.type", "Features", "--split", "val", expect=2)
        expected = "dataset.val: expected images (batch, channels, H, W), found (16, 16)"
        self.assertEqual(shown, f"show_batch.py: error: {expected}\n")
