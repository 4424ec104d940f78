"""How models begin, and how an optimizer takes them."""

import tempfile
import unittest
from pathlib import Path

import torch
from torch import nn

from common.config.errors import UserError
from common.vision.model import BaseModel, fetch_weights
from common.vision.resnet import ResNet


class Small(BaseModel):
    """A convolution, a norm and a linear layer."""

    def __init__(self, classes=3, weights=None):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 400, 3), nn.BatchNorm2d(400), nn.Linear(400, classes)
        self.start(weights)


class TestBaseModel(unittest.TestCase):
    def test_first_weights(self):
        model = Small()
        expected = (2 / (400 * 9)) ** 0.5
        self.assertAlmostEqual(model.conv.weight.std().item(), expected, delta=0.03 * expected)
        self.assertTrue(model.conv.bias.eq(0).all() and model.norm.weight.eq(1).all() and model.norm.bias.eq(0).all())

    def test_groups(self):
        model = Small()
        model.fc.weight.requires_grad_(False)
        decayed, others = model.parameter_groups()
        self.assertEqual([id(p) for p in decayed["params"]], [id(model.conv.weight)])
        self.assertNotIn("weight_decay", decayed)
        self.assertEqual(others["weight_decay"], 0.0)
        vectors = [model.conv.bias, model.norm.weight, model.norm.bias, model.fc.bias]
        self.assertEqual([id(p) for p in others["params"]], list(map(id, vectors)))


class TestWeights(unittest.TestCase):
    """Weights from a file or a library."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.path = str(Path(temporary.name) / "weights.pt")

    def test_what_fits_is_taken(self):
        trained = Small(classes=5)
        torch.save(trained.state_dict(), self.path)
        model = Small(classes=3, weights=self.path)
        self.assertTrue(model.conv.weight.equal(trained.conv.weight))
        self.assertEqual(model.fc.weight.shape, (3, 400))

    def test_names_are_those_of_torchvision(self):
        names = set(ResNet(50, num_classes=10).state_dict())
        for name in ("conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias", "fc.bias"):
            self.assertIn(name, names)

    def test_mistakes(self):
        torch.save({"other": torch.zeros(2)}, self.path)
        with self.assertRaisesRegex(UserError, "none of its 1 weights fits the model Small"):
            Small(weights=self.path)
        with self.assertRaisesRegex(UserError, "no/such.pt: no such"):
            Small(weights="no/such.pt")
        for library in ("torchvision", "timm"):
            try:
                __import__(library)
            except (ImportError, RuntimeError):
                with self.assertRaisesRegex(
                    UserError, f"weights: {library}:x needs {library}, which cannot be imported"
                ):
                    fetch_weights(f"{library}:x")
