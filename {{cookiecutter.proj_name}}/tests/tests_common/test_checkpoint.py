"""Checkpoint files: written whole or not at all, read as plain data."""

import os
import pickle
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from common.checkpoint import Checkpointer, find_checkpoint, load_matching, read_checkpoint, read_weights
from common.errors import UserError


class CodeOnLoad:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class CheckpointTest(unittest.TestCase):
    """Each test has a folder of its own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)


class TestCheckpointer(CheckpointTest):
    """Saving, loading and pruning."""

    def make(self, **keys):
        self.model = nn.Linear(2, 1)
        return Checkpointer(self.folder, {"model": self.model}, **keys)

    def test_there_and_back(self):
        checkpointer = self.make()
        expected = self.model.weight.clone()
        checkpointer.save("latest", "epoch_001")
        with torch.no_grad():
            self.model.weight.zero_()
        checkpointer.load(self.folder / "epoch_001.pt")
        self.assertTrue(torch.equal(self.model.weight, expected))
        self.assertEqual({path.name for path in self.folder.iterdir()}, {"latest.pt", "epoch_001.pt"})

    def test_a_save_that_fails_leaves_the_old_file(self):
        checkpointer = self.make()
        checkpointer.save("latest")
        before = (self.folder / "latest.pt").read_bytes()

        def half(state, file):
            file.write(b"half")
            raise OSError("disk full")

        with mock.patch("torch.save", half), self.assertRaises(OSError):
            checkpointer.save("latest")
        self.assertEqual((self.folder / "latest.pt").read_bytes(), before)

    def test_keeps_the_last_numbered_ones_and_all_others(self):
        checkpointer = self.make(keep_last=2)
        for name in ("epoch_009", "best_x", "iter_000095", "epoch_010", "final", "epoch_100"):
            checkpointer.save(name)
        kept = {"best_x.pt", "final.pt", "epoch_010.pt", "epoch_100.pt"}
        self.assertEqual({path.name for path in self.folder.iterdir()}, kept)

    def test_a_part_that_is_missing(self):
        self.make().save("latest")
        other = Checkpointer(self.folder, {"model": self.model, "ema": self.model})
        with self.assertRaisesRegex(UserError, "has no 'ema'"):
            other.load(self.folder / "latest.pt")

    def test_a_part_that_does_not_fit(self):
        self.make().save("latest")
        with self.assertRaisesRegex(UserError, "'model' does not fit this run: .*size mismatch"):
            Checkpointer(self.folder, {"model": nn.Linear(3, 1)}).load(self.folder / "latest.pt")


class TestReading(CheckpointTest):
    """Files that are and are not checkpoints."""

    def test_files_that_are_none(self):
        torch.save({"model": {"w": torch.ones(1000)}}, self.folder / "good.pt")
        good = (self.folder / "good.pt").read_bytes()
        ran = self.folder / "code_ran"
        torch.save({"model": CodeOnLoad(str(ran))}, self.folder / "code.pt")
        files = {
            "foreign.pt": b"not a checkpoint",
            "empty.pt": b"",
            "truncated.pt": good[: len(good) // 2],
            "code.pt": (self.folder / "code.pt").read_bytes(),
            "pickle.pt": pickle.dumps(CodeOnLoad(str(ran))),
        }
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
            with self.subTest(name=name), self.assertRaisesRegex(UserError, f"{name}: no checkpoint") as caught:
                read_checkpoint(self.folder / name)
            self.assertNotIn("\n", str(caught.exception))
        self.assertFalse(ran.exists())

    def test_a_file_with_something_else(self):
        torch.save([1, 2], self.folder / "list.pt")
        with self.assertRaisesRegex(UserError, "expected a dict of parts, found list"):
            read_checkpoint(self.folder / "list.pt")

    def test_no_such_file(self):
        torch.save({}, self.folder / "latest.pt")
        with self.assertRaisesRegex(UserError, "no such checkpoint, did you mean 'latest.pt'"):
            read_checkpoint(self.folder / "lates.pt")

    def test_find(self):
        file = self.folder / "checkpoints" / "latest.pt"
        file.parent.mkdir()
        file.touch()
        for given in (file, file.parent, self.folder):
            self.assertEqual(find_checkpoint(str(given)), file)
        file.unlink()
        with self.assertRaisesRegex(UserError, "found no latest.pt"):
            find_checkpoint(str(self.folder))


class TestWeights(CheckpointTest):
    """Weights alone."""

    def read(self, state, **keys):
        torch.save(state, self.folder / "x.pt")
        return read_weights(self.folder / "x.pt", **keys)

    def test_averages_come_first(self):
        state = {"model": {"w": torch.zeros(1), "n": torch.tensor(3)}, "ema": {"weights": {"w": torch.ones(1)}}}
        weights = self.read(state)
        self.assertEqual((weights["w"].item(), weights["n"].item()), (1.0, 3))

    def test_one_of_several(self):
        state = {"model.a": {"w": torch.zeros(1)}, "model.b": {"w": torch.ones(1)}}
        self.assertEqual(self.read(state, name="model.b")["w"].item(), 1.0)
        with self.assertRaisesRegex(UserError, "holds no 'model'"):
            self.read(state)

    def test_a_bare_state_dict(self):
        self.assertEqual(self.read({"w": torch.ones(1)})["w"].item(), 1.0)

    def test_matching(self):
        model = nn.Linear(2, 1)
        report = load_matching(model, {"weight": torch.ones(1, 2), "bias": torch.ones(3), "extra": torch.ones(1)}, "f")
        self.assertTrue(torch.equal(model.weight, torch.ones(1, 2)))
        self.assertEqual(report, ["bias: (3,) in the file, (1,) in the model", "extra: not in the model"])

    def test_nothing_matches(self):
        with self.assertRaisesRegex(UserError, "none of its 1 weights fits the model Linear"):
            load_matching(nn.Linear(2, 1), {"other": torch.ones(1)}, "f")
