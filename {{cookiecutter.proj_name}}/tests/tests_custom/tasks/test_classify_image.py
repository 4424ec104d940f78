"""Classification of the digits, from training to predictions that are those of evaluate.py."""

from importlib.util import find_spec

import numpy as np
from PIL import Image

from tests import slow
from tests.tests_custom.tasks.trained import TrainedTest
from custom.datasets.digits_dataset import DigitsDataset


class TestDigits(TrainedTest):
    """Labels equal, probabilities equal to the bit where the batches are the same."""

    train_config, eval_config, flags = "configs/default.yaml", "configs/eval.yaml", ["--batch_size", "64"]
    train_flags = ["--progress.epoch", "3", "--optim.ema_decay", "0.9"]

    def setUp(self):
        images = DigitsDataset("data", "eval").tensors["image"]
        self.arrays, self.pictures = self.folder / "arrays", self.folder / "pictures"
        for folder in (self.arrays, self.pictures):
            folder.mkdir(exist_ok=True)
        for i, image in enumerate(images.numpy()):
            np.save(self.arrays / f"{i:03d}.npy", image)
            Image.fromarray((image[0] * 255).round().astype(np.uint8)).save(self.pictures / f"{i:03d}.png")

    def assert_equal(self, lines, rows, delta):
        self.assertEqual(len(lines), len(rows))
        for line, row in zip(lines, rows, strict=True):
            self.assertEqual(line["guess"], int(row["guess"]))
            self.assertEqual(line["class"], row["guess"])
            self.assertAlmostEqual(line["confidence"], float(row["confidence"]), delta=delta)

    def test_checkpoint(self):
        self.assert_equal(self.predict(self.arrays, "--batch_size", 64), self.rows, delta=0)
        self.assert_equal(self.predict(self.arrays, "--batch_size", 7), self.rows, delta=1e-5)

    def test_picture_files(self):
        """Their values are rounded to bytes, which changes no class here."""
        lines = self.predict(self.pictures, "--batch_size", 64)
        self.assertEqual([line["guess"] for line in lines], [int(row["guess"]) for row in self.rows])

    def test_pt2(self):
        path = self.export("pt2", "model.pt2")
        for size in (1, 64):
            self.assert_equal(self.predict(self.arrays, "--batch_size", size, model=path), self.rows, delta=1e-5)

    @slow
    def test_safetensors(self):
        if find_spec("safetensors") is None:
            self.skipTest("not installed: safetensors")
        path = self.export("hub", "published") / "model.safetensors"
        self.assert_equal(self.predict(self.arrays, "--batch_size", 64, model=path), self.rows, delta=0)
        card = (path.parent / "README.md").read_text()
        self.assertRegex(card, r"\| validation \| accuracy \| 0.\d+ \|")

    @slow
    def test_onnx(self):
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            self.skipTest(f"not installed: {' '.join(missing)}")
        path = self.export("onnx", "model.onnx")
        for size in (1, 2, 7):
            self.assert_equal(self.predict(self.arrays, "--batch_size", size, model=path), self.rows, delta=1e-5)
