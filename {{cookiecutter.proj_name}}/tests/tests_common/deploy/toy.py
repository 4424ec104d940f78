"""A model that names the color of a picture, trained in a second, for the tests of what is done with it."""

import importlib
import io
import os
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import nn

from common.config.build import build_loader, build_model
from common.config.registry import DATASET_REGISTRY, MODEL_REGISTRY
from common.config.schema import Config, DatasetConfig, OptimConfig, ProgressConfig
from common.data import ArrayDataset
from common.deploy.task import TASK_REGISTRY, Task, mask_picture, read_picture
from common.engine import EpochBasedTrainer
from common.optim.build import build_optimizer
from common.run.launch import Session
from common.run.seed import seed_everything

PROJECT = Path(__file__).parents[3]
CLASSES = ["red", "green", "blue"]


def draw_pictures(count, seed=0, size=8):
    """Return pictures, uint8 (count, 3, size, size), each with one channel brighter than the others, and which."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    pictures = random.integers(0, 150, (count, 3, size, size))
    pictures[np.arange(count), labels] += 60
    return pictures.astype(np.uint8), labels


@DATASET_REGISTRY.register()
class ToyColors(ArrayDataset):
    """The pictures as floats in [0, 1]."""

    classes = CLASSES

    def __init__(self, data_dir, seed=0):
        pictures, labels = draw_pictures(96, seed)
        super().__init__(data_dir, image=torch.from_numpy(pictures) / 255, label=torch.from_numpy(labels))


@MODEL_REGISTRY.register()
class ToyColorNet(nn.Module):
    """Takes pictures of any size; its batch norm tells whether it is in evaluation mode."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, 3)

    def forward(self, image):
        return self.classifier(self.layers(image).mean((2, 3)))


@MODEL_REGISTRY.register()
class ToyPixelNet(nn.Module):
    """Tells the color of each pixel; pictures have at least 4 pixels a side."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        return self.layer(image) + nn.functional.interpolate(nn.functional.max_pool2d(image, 4), image.shape[2:])


@TASK_REGISTRY.register()
class ToyNameColor(Task):
    """Names the color of a picture."""

    def __init__(self, about, draws: bool = False):
        super().__init__(about)
        self.draws = draws

    def read(self, source):
        image = read_picture(source)
        return {"image": image / 255 if image.dtype == torch.uint8 else image}

    def forward(self, model, batch):
        if batch["image"].amin() < -0.5:
            raise ValueError("pictures are not that dark")
        return super().forward(model, batch)

    def answer(self, data_dict, output_dict):
        probabilities = output_dict["logits"].softmax(dim=0)
        guess = int(probabilities.argmax())
        names = self.about.class_names(3)
        answer = {"class": names[guess], "confidence": float(probabilities[guess])}
        answer["probabilities"] = dict(zip(names, probabilities.tolist(), strict=True))
        return answer | ({"mask": mask_picture(data_dict["image"].argmax(dim=0))} if self.draws else {})


@TASK_REGISTRY.register()
class ToyContinue(Task):
    """Continues a text by itself."""

    accepts = "text"

    def read(self, source):
        return {"image": torch.full((3, 8, 8), len(source) / 100)}

    def answer(self, data_dict, output_dict):
        return {"text": f" and {int(data_dict['image'][0, 0, 0] * 100 + 0.5)} letters"}


class _Trainer(EpochBasedTrainer):
    def __init__(self, config, session):
        super().__init__(config, session)
        self.register_loader(build_loader(config, "train"))
        self.register_model(build_model(config.model))
        self.register_optimizer(build_optimizer(config.optim, self.model.parameters()))

    def val_step(self, epoch, iteration, data_dict):
        raise AssertionError("there is no validation set")

    def train_step(self, epoch, iteration, data_dict):
        output_dict = {"logits": self.model(data_dict["image"])}
        return output_dict, {"loss": nn.functional.cross_entropy(output_dict["logits"], data_dict["label"])}


@TASK_REGISTRY.register()
class ToySlow(ToyContinue):
    """Takes its time."""

    def __init__(self, about, seconds: float = 1.0):
        super().__init__(about)
        self.seconds = seconds

    def answer(self, data_dict, output_dict):
        time.sleep(self.seconds)
        return {"text": "slow"}


def train(folder, epochs=8, task="ToyNameColor", optim=None, **keys):
    """Train, and return the checkpoint."""
    data = {"type": "ToyColors"}
    config = Config(
        name="colors",
        optim=OptimConfig(**{"type": "Adam", "lr": 0.02, **(optim or {})}),
        progress=ProgressConfig(epoch=epochs, save_progress_val=False, iter_loss=2),
        model={"type": "ToyColorNet"},
        **{"dataset": DatasetConfig(train=data, eval={**data, "seed": 1}), "task": task and {"type": task}, **keys},
    )
    seed_everything(0)
    _Trainer(config, Session(torch.device("cpu"), folder, None)).run()
    return folder / "checkpoints" / "final.pt"


class DeployTest(unittest.TestCase):
    """One trained checkpoint for all tests of a class, and an empty folder for each."""

    keys = {}

    @classmethod
    def setUpClass(cls):
        cls._kept = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls._kept.cleanup)
        cls.run_folder = Path(cls._kept.name) / "experiments" / "colors"
        cls.checkpoint = train(cls.run_folder, **cls.keys)

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def write_pictures(self, count, size=8, seed=1):
        """Write pictures to a folder, and return it and the names of their classes."""
        folder = self.folder / "pictures"
        folder.mkdir(exist_ok=True)
        pictures, labels = draw_pictures(count, seed, size)
        for i, picture in enumerate(pictures):
            Image.fromarray(picture.transpose(1, 2, 0)).save(folder / f"{i:04d}.png")
        return folder, [CLASSES[label] for label in labels]

    def call(self, script, *flags, expect=0, model=None):
        """Call a script in this process, and return its standard output and error."""
        model = self.checkpoint if model is None else model
        words = [f"{script}.py", "--model_pt", str(model), "--gpu_ids", "-1", *map(str, flags)]
        out, errors, code = io.StringIO(), io.StringIO(), 0
        with mock.patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(errors):
            try:
                importlib.import_module(script).main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
                print(*[end.code] * isinstance(end.code, str), file=errors, end="")
        self.assertEqual(code, expect, errors.getvalue())
        return out.getvalue(), errors.getvalue()

    def command(self, script, *flags, model=None):
        """Return the words of a command that runs a script with the classes of this file known."""
        code = f"import tests.tests_common.deploy.toy, {script}; {script}.main()"
        model = self.checkpoint if model is None else model
        words = [sys.executable, "-c", code, "--model_pt", str(model), "--gpu_ids", "-1", *map(str, flags)]
        return {"args": words, "cwd": PROJECT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}

    def run_script(self, script, *flags, expect=0, model=None, **keys):
        """Run a script, and return its standard output and error."""
        done = subprocess.run(**self.command(script, *flags, model=model), capture_output=True, **keys)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done.stdout, done.stderr
