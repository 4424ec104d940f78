"""A user's day two: the shipped example goes, a task of one's own comes, and every test that is left passes."""

import re

import yaml
from conftest import bake, python, run

SHIPPED = """
    custom/datasets/digits_dataset.py custom/datasets/fashion_mnist_dataset.py custom/models/digits_model.py
    custom/metrics/accuracy_metric.py configs/fashion_mnist.yaml data/digits
"""
OWN = {
    "datasets/waves_dataset.py": '''"""Waves, of which half are inverted."""

import torch

from common import DATASET_REGISTRY, ArrayDataset


@DATASET_REGISTRY.register()
class WavesDataset(ArrayDataset):
    """Noisy sines; the label says whether one is inverted."""

    def __init__(self, data_dir: str, samples: int = 256, seed: int = 0):
        draw = torch.Generator().manual_seed(seed)
        label = torch.randint(2, (samples,), generator=draw)
        wave = torch.linspace(0, 6, 64).sin() * (1 - 2 * label[:, None])
        noise = 0.1 * torch.randn(samples, 64, generator=draw)
        super().__init__(data_dir, image=(wave + noise).reshape(-1, 1, 8, 8), label=label)
''',
    "models/wave_model.py": '''"""A linear model of waves."""

import torch
from torch import nn

from common import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class WaveModel(nn.Module):
    """One linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 2)."""
        return self.layer(image.flatten(1))
''',
    "metrics/hits_metric.py": '''"""How often the model is right."""

import torch

from common import METRIC_REGISTRY, MeanMetric


@METRIC_REGISTRY.register()
class Hits(MeanMetric):
    """The share of right guesses."""

    higher_is_better = True

    def measure(self, output_dict: dict, data_dict: dict) -> torch.Tensor:
        """Return whether each sample is right, bool (batch,)."""
        return output_dict["logits"].argmax(dim=1) == data_dict["label"]
''',
}


def test_day_two(tmp_path):
    project = bake(tmp_path, package_name="my_net", proj_name="waves")
    for name in SHIPPED.split():
        run("rm", "-r", re.sub("^custom/", "my_net/", name), cwd=project)
    tests = project / "tests/tests_custom"
    for path in (*tests.glob("test_*.py"), *tests.glob("tasks/test_*.py")):
        path.unlink()
    for name, text in OWN.items():
        (project / "my_net" / name).write_text(text)
    config = yaml.safe_load((project / "configs/default.yaml").read_text())
    waves = {"type": "WavesDataset"}
    config.update(name="my_waves", model={"type": "WaveModel"}, metric={"hits": {"type": "Hits"}})
    config["dataset"] |= {"train": waves, "val": {**waves, "seed": 1}, "eval": {**waves, "seed": 2}}
    config["checkpoint"]["best_metric"] = "hits"
    (project / "configs/default.yaml").write_text(yaml.safe_dump(config))

    said = python("train.py", "--config", "configs/default.yaml", "--gpu_ids", "-1", cwd=project).stderr
    assert float(re.search(r"best +hits ([\d.]+)", said)[1]) >= 0.97
    run("ruff", "check", "--no-cache", ".", cwd=project)
    run("pyrefly", "check", cwd=project)
    shown = python("-m", "unittest", "discover", "tests", cwd=project).stderr
    assert int(re.search(r"Ran (\d+) tests", shown)[1]) > 300
