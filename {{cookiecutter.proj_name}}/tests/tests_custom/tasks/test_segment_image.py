"""Segmentation of the shapes, from training to masks that are those of evaluate.py."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.measures.overlap import IoU
from tests import slow
from tests.tests_custom.tasks.trained import PROJECT, TrainedTest
from custom.datasets.shapes_dataset import ShapesDataset, draw_scene

ALONE = not (PROJECT / "configs/segmentation.yaml").exists()
SMALL = ["--model.width", "4", "--model.depth", "2"]


class TestShapes(TrainedTest):
    """The picture files are lossless, so that even the masks are equal to the bit."""

    train_config = "configs/default.yaml" if ALONE else "configs/segmentation.yaml"
    eval_config = "configs/eval.yaml" if ALONE else "configs/eval_segmentation.yaml"
    flags = [*SMALL, "--batch_size", "16"]
    train_flags = ["--progress.epoch", "1", "--dataset.train.sample_rate", "0.2", "--dataset.val.sample_rate", "20"]

    def setUp(self):
        self.dataset = ShapesDataset("data", "eval")
        self.pictures, self.odd = self.folder / "pictures", self.folder / "odd"
        for folder in (self.pictures, self.odd):
            folder.mkdir(exist_ok=True)
        for i in range(len(self.dataset)):
            Image.fromarray(self.dataset[i]["image"].permute(1, 2, 0).numpy()).save(self.pictures / f"{i:03d}.png")
        random = np.random.default_rng(7)
        for i, (height, width) in enumerate([(65, 64), (64, 65), (51, 33), (64, 64), (51, 33)]):
            Image.fromarray(draw_scene(random, 70)[0][:height, :width]).save(self.odd / f"{i}.png")

    def mask(self, line):
        return torch.from_numpy(np.array(Image.open(self.folder / "out" / line["mask"])))

    def assert_equal(self, lines):
        """Check the overlap of each mask with the truth against the one in evaluate.py's row."""
        measure = IoU()
        self.assertEqual(len(lines), len(self.rows))
        for i, (line, row) in enumerate(zip(lines, self.rows, strict=True)):
            logits = self.mask(line)[None, None].float() - 0.5
            found = measure.measure({"logits": logits}, {"mask": self.dataset[i]["mask"][None]})
            self.assertEqual(f"{found.item():.6f}", f"{float(row['iou']):.6f}")

    def test_checkpoint(self):
        lines = self.predict(self.pictures, "--batch_size", 16)
        self.assert_equal(lines)
        self.assertEqual(set(lines[0]["shares"]), {"background", "shape"})
        self.assertAlmostEqual(lines[0]["shares"]["shape"], self.mask(lines[0]).double().mean().item(), places=6)
        self.assert_equal(self.predict(self.pictures, "--batch_size", 7))

    @slow
    def test_pt2_and_odd_sizes(self):
        path = self.export("pt2", "model.pt2", "--input", self.pictures)
        expected = [(line["confidence"], self.mask(line)) for line in self.predict(self.odd, "--batch_size", 1)]
        lines = self.predict(self.odd, model=path)
        for line, (confidence, mask), name in zip(lines, expected, sorted(self.odd.iterdir()), strict=True):
            self.assertTrue(self.mask(line).equal(mask))
            self.assertEqual(tuple(mask.shape[::-1]), Image.open(name).size)
            self.assertAlmostEqual(line["confidence"], confidence, delta=1e-5)

    @slow
    def test_onnx_and_odd_sizes(self):
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            self.skipTest(f"not installed: {' '.join(missing)}")
        path = self.export("onnx", "model.onnx")
        self.assert_equal(self.predict(self.pictures, model=path))
        expected = [line["confidence"] for line in self.predict(self.odd)]
        for line, confidence in zip(self.predict(self.odd, model=path), expected, strict=True):
            self.assertAlmostEqual(line["confidence"], confidence, delta=1e-5)
            self.assertEqual(Path(line["mask"]).name, f"{Path(line['input']).name}.png")
