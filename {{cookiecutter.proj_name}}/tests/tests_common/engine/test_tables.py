"""What an evaluation writes: means, a line a sample, pictures of metrics; the same on any number of processes."""

import csv
import json
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from common.config.build import build_metric
from common.config.schema import Config, DistConfig
from common.data import BaseDataset, make_loader
from common.engine import BatchTester
from common.run.launch import Session, launch
from tests import needs_room, slow
from tests.tests_common.processes import run_script

CLASSES = 3


class Clouds(BaseDataset):
    """Points around three places; sample 5 knows no file."""

    def __init__(self, samples=23):
        super().__init__("data")
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(CLASSES, (samples,), generator=generator)
        self.points = torch.randn(samples, CLASSES, generator=generator) + nn.functional.one_hot(self.labels, CLASSES)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"x": self.points[index], "label": self.labels[index]}

    def path(self, index):
        return None if index == 5 else Path(f"{index}.bin")


class CloudTester(BatchTester):
    """Takes the points as they are for logits."""

    def __init__(self, config, session):
        super().__init__(config, session)
        self.register_model(nn.Identity())
        self.register_loader(make_loader(Clouds(), 4))
        section = {"num_classes": CLASSES}
        metrics = {"f1": {"type": "F1", **section}, "confusion": {"type": "ConfusionMatrix", **section}}
        self.register_metric(build_metric(metrics))

    def test_step(self, iteration, data_dict):
        return {"logits": self.model(data_dict["x"])}

    def eval_step(self, iteration, data_dict, output_dict):
        return {"largest": output_dict["logits"].max()}

    def after_test_step(self, iteration, data_dict, output_dict, result_dict):
        self.rows[-1]["label"] = int(data_dict["label"])


def evaluate(folder):
    """Write the tables of the set to a folder, on the ranks there are."""
    config = replace(Config(gpu_ids=-1), dist=DistConfig(timeout=60))
    with launch(config, lambda config: (Path(folder), None)) as session:
        CloudTester(config, session).run()


@needs_room("measures")
class TestTables(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def read(self, folder):
        with (folder / "samples.csv").open(newline="") as file:
            samples = list(csv.DictReader(file))
        with (folder / "summary.csv").open(newline="") as file:
            table = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
        return samples, table, json.loads((folder / "summary.json").read_text())

    def check(self, folder):
        samples, table, summary = self.read(folder)
        data = Clouds()
        self.assertEqual([int(row["sample"]) for row in samples], list(range(23)))
        self.assertEqual([int(row["label"]) for row in samples], data.labels.tolist())
        self.assertEqual([row["file"] for row in samples], ["" if i == 5 else f"{i}.bin" for i in range(23)])
        for row, largest in zip(samples, data.points.max(1).values.tolist(), strict=True):
            self.assertAlmostEqual(float(row["largest"]), largest, places=6)
        self.assertEqual(table, summary)
        self.assertEqual(set(summary), {"largest", "f1", "confusion"})
        self.assertTrue((folder / "confusion.png").read_bytes().startswith(b"\x89PNG"))
        return summary

    def test_one_process(self):
        CloudTester(Config(gpu_ids=-1), Session(torch.device("cpu"), self.folder, None)).run()
        self.check(self.folder)

    @slow
    def test_any_number_of_processes(self):
        script = "import sys; from tests.tests_common.engine.test_tables import evaluate; evaluate(sys.argv[1])"
        found = []
        for processes in (1, 2, 3):
            folder = self.folder / str(processes)
            folder.mkdir()
            run_script(self.folder, script, processes, str(folder))
            found.append(self.check(folder))
        for summary in found[1:]:
            self.assertEqual(
                {key: summary[key] for key in ("f1", "confusion")}, {k: found[0][k] for k in ("f1", "confusion")}
            )
            self.assertAlmostEqual(summary["largest"], found[0]["largest"], places=9)
