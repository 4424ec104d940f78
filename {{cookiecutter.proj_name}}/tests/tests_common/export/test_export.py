"""export.py: what is exported does the same, says what it is, and is not left where it does not."""

import importlib
import io
import json
import unittest
from importlib.util import find_spec
from unittest import mock

import numpy as np
import torch

from common.config.errors import RunError, UserError
from common.deploy.model_file import ready
from common.deploy.predictor import Predictor
from common.export import export as exporting
from common.export.export import compare, export, trace
from common.state.file import read_checkpoint
from tests import slow
from tests.tests_common.deploy.toy import CLASSES, DeployTest, ToyPixelNet

ONNX = ("onnx", "onnxscript", "onnxruntime")


def needs_packages(*names):
    missing = [name for name in names if find_spec(name) is None]
    return unittest.skipIf(missing, f"not installed: {' '.join(missing)}")


class TestExport(DeployTest):
    """Each format, from the command to the predictions."""

    def check(self, format, model=None):
        """Export the checkpoint, and compare the answers of the file with the checkpoint's."""
        path = self.folder / (model or f"model.{format}")
        said, _ = self.call("export", "--format", format, "--output", path)
        self.assertRegex(said, rf"{path}: written; its outputs differ from the checkpoint's by \d.\de[+-]\d\d at most")
        self.assertEqual([item.name for item in self.folder.iterdir()], [path.name])
        random = np.random.default_rng(0)
        arrays = [random.random((3, *size), np.float32) for size in [(8, 8)] * 7 + [(13, 9)] * 2 + [(5, 30)]]
        one, other = (Predictor.from_checkpoint(name, "cpu") for name in (self.checkpoint, path))
        self.assertEqual(other.about.classes, CLASSES)
        self.assertEqual(other.about.config["task"], {"type": "ToyNameColor"})
        for batch_size in (1, 2, 7):
            for found, expected in zip(other(arrays, batch_size), one(arrays, batch_size), strict=True):
                self.assertEqual(found["class"], expected["class"])
                for name in CLASSES:
                    self.assertAlmostEqual(found["probabilities"][name], expected["probabilities"][name], delta=1e-5)
        return path

    def test_pt2(self):
        path = self.check("pt2")
        folder, names = self.write_pictures(3)
        said, _ = self.call("predict", "--input", folder, model=path)
        self.assertEqual([line.split("class ")[1].split(",")[0] for line in said.splitlines()], names)
        cut = self.folder / "cut.pt2"
        cut.write_bytes(path.read_bytes()[:-500])
        _, errors = self.run_script("predict", "--input", folder, model=cut, expect=2)
        self.assertRegex(errors, "^[^\n]*cut.pt2: foreign or damaged: [^\n]*\n$")
        _, errors = self.call("export", "--format", "pt2", "--output", self.folder / "b.pt2", model=path, expect=2)
        self.assertIn("--model_pt: expected a checkpoint, found an exported model", errors)

    @slow
    @needs_packages(*ONNX)
    def test_onnx(self):
        path = self.check("onnx")
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.assertEqual([type(size) for size in session.get_inputs()[0].shape], [str, int, str, str])
        self.assertEqual(json.loads(session.get_modelmeta().custom_metadata_map["about"])["classes"], CLASSES)

    @needs_packages("safetensors")
    def test_safetensors(self):
        path = self.check("safetensors")
        damaged = self.folder / "damaged.safetensors"
        damaged.write_bytes(path.read_bytes()[:-4])
        for name, message in (
            (damaged, "foreign or damaged"),
            (self._without_metadata(path), "does not say what it is"),
        ):
            with self.assertRaisesRegex(UserError, message):
                Predictor.from_checkpoint(name, "cpu")

    def _without_metadata(self, path):
        from safetensors.torch import load_file, save_file

        other = path.with_name("other.safetensors")
        save_file(load_file(path), other)
        return other

    @needs_packages("safetensors")
    def test_hub(self):
        folder = self.folder / "published"
        self.call("export", "--format", "hub", "--output", folder)
        names = {"README.md", "config.json", "model.safetensors", "environment.txt"}
        drawn = {"curves.png"} if find_spec("common.tools") else set()
        self.assertEqual({path.name for path in folder.iterdir()}, names | drawn)
        card = (folder / "README.md").read_text()
        for text in (
            "\n# colors\n",
            "`ToyColorNet` with",
            "Classes: red, green, blue.",
            "type: ToyColors",
            "Adam, learning",
        ):
            self.assertIn(text, card)
        self.assertEqual("(curves.png)" in card, bool(drawn))
        self.assertIn("torch", (folder / "environment.txt").read_text())
        self.assertNotIn("uncommitted", (folder / "environment.txt").read_text())
        self.assertNotIn("dir", json.loads((folder / "config.json").read_text())["config"])
        array = np.full((3, 8, 8), 0.4, np.float32)
        one, other = (Predictor.from_checkpoint(name, "cpu")(array) for name in (self.checkpoint, folder))
        self.assertEqual(one, other)
        _, errors = self.call("export", "--format", "hub", "--output", folder, expect=2)
        self.assertRegex(errors, r"--output \S+published: exists, and is not overwritten")


class TestRefused(DeployTest):
    """What is not exported."""

    keys = {"epochs": 1}

    def setUp(self):
        super().setUp()
        self.predictor = Predictor.from_checkpoint(self.checkpoint, "cpu")

    def test_a_file_that_does_something_else_is_not_left(self):
        path = self.folder / "model.pt2"
        path.write_bytes(b"the one before")
        refused = self.assertRaisesRegex(RunError, r"its outputs differ by 1.5e-04, more than 1e-04; not written")
        with mock.patch.object(exporting, "compare", lambda *arguments: 1.5e-4), refused:
            export(self.predictor, "pt2", path)
        self.assertEqual([item.read_bytes() for item in self.folder.iterdir()], [b"the one before"])

    def test_differences_are_seen(self):
        calls = [(torch.ones(2, 3),), (torch.ones(1, 3) * 2,)]
        self.assertAlmostEqual(compare(lambda x: {"a": [x]}, lambda x: {"a": [x * 1.25]}, calls), 0.5)
        self.assertEqual(compare(lambda x: x, lambda x: x * float("nan"), calls), float("inf"))

    def test_compared_on_the_evaluation_set_or_on_files(self):
        for data in ({"eval": {"type": "ToyColors", "sead": 1}}, {}):
            self.predictor.about.config["dataset"] = data
            with self.assertRaisesRegex(
                UserError, "^dataset.eval.*; the exported model is compared on this data; .*--input"
            ):
                export(self.predictor, "pt2", self.folder / "model.pt2")
        folder, _ = self.write_pictures(3)
        self.assertLess(export(self.predictor, "pt2", self.folder / "model.pt2", sorted(folder.iterdir())), 1e-5)

    def test_a_missing_package_is_named(self):
        def missing(name, package=None):
            if name.startswith(("safetensors", "onnx")):
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)
            return importlib.__import__(name)

        with mock.patch.object(importlib, "import_module", missing):
            for format, package in (("safetensors", "safetensors"), ("onnx", "onnx")):
                _, errors = self.call("export", "--format", format, "--output", self.folder / "model", expect=2)
                self.assertRegex(errors, f"--format {format}: .*not installed: pip install {package}\n$")
        self.assertEqual(list(self.folder.iterdir()), [])


class TestGraph(unittest.TestCase):
    """Which dimensions of the graph are dynamic."""

    def graph_of(self, model, *shape):
        file = io.BytesIO()
        torch.export.save(trace(ready(model, torch.device("cpu")), (torch.rand(shape),)), file)
        file.seek(0)
        return torch.export.load(file).module()

    def test_sizes_where_the_model_takes_others(self):
        model = ToyPixelNet()
        graph = self.graph_of(model, 1, 3, 8, 8)
        for shape in ((1, 3, 8, 8), (2, 3, 21, 8), (7, 3, 9, 34)):
            image = torch.rand(shape)
            torch.testing.assert_close(graph(image), model(image))

    def test_tokens_up_to_the_context(self):
        class Tokens(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.position = torch.nn.Embedding(9, 4), torch.nn.Embedding(16, 4)

            def forward(self, tokens):
                return self.embedding(tokens) + self.position.weight[: tokens.shape[1]]

        model, file = Tokens(), io.BytesIO()
        torch.export.save(trace(ready(model, torch.device("cpu")), (torch.zeros(1, 16, dtype=torch.long),)), file)
        file.seek(0)
        graph = torch.export.load(file).module()
        for length in (2, 7, 16):
            tokens = torch.arange(length)[None].expand(3, -1) % 9
            torch.testing.assert_close(graph(tokens), model(tokens))

    def test_samples_alone_otherwise(self):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        graph = self.graph_of(model, 2, 3, 2, 2)
        self.assertEqual(graph(torch.rand(7, 3, 2, 2)).shape, (7, 2))
        with self.assertRaises(AssertionError):
            graph(torch.rand(7, 3, 4, 4))

    def test_what_cannot_be_traced_is_named(self):
        class Odd(torch.nn.Module):
            def forward(self, image):
                return image * float(image.sum().item() > image.numel() and np.random.rand())

        with self.assertRaisesRegex(RunError, "^Odd cannot be exported: [^\n]*$"):
            self.graph_of(Odd(), 2, 3, 4, 4)


class TestAbout(DeployTest):
    """What the checkpoint of a sharded or a plain run shares with others."""

    keys = {"epochs": 1}

    def test_it_is_not_loaded_on_resume(self):
        self.assertIn("config", read_checkpoint(self.checkpoint))
