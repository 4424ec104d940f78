"""Files that are whole and proven, and the many that are not."""

import hashlib
import os
import pickle
import random
import tempfile
import unittest
import zipfile
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from common.config.errors import UserError
from common.state.file import (
    SHARDS,
    find_fault,
    load_matching,
    read_checkpoint,
    read_plain,
    read_weights,
    save_number,
    write_durably,
)


class CodeOnLoad:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class FileTest(unittest.TestCase):
    """A good file, and a folder for others."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.path = self.folder / "good.pt"
        self.state = {"model": {"w": torch.randn(100, 20)}, "trainer": {"epoch": 3}}
        write_durably(self.state, self.path, 7)
        self.good = self.path.read_bytes()

    def write(self, content, name="other.pt"):
        path = self.folder / name
        path.write_bytes(content)
        return path


class TestDigest(FileTest):
    """Every change of a file is seen."""

    def test_a_good_file(self):
        self.assertIsNone(find_fault(self.path))
        self.assertTrue(torch.equal(read_checkpoint(self.path)["model"]["w"], self.state["model"]["w"]))

    def test_anyone_can_open_it(self):
        self.assertEqual(torch.load(self.path, weights_only=True)["trainer"], {"epoch": 3})
        with zipfile.ZipFile(self.path) as archive:
            self.assertRegex(archive.comment.decode(), r"^checkpoint 1 sha256 [0-9a-f]{64} save 0000000007$")

    def test_flipped_bits(self):
        draw = random.Random(0)
        # Every byte of the end, where the digest itself stands, and 200 others.
        places = [*range(len(self.good) - 120, len(self.good)), *draw.sample(range(len(self.good)), 200)]
        for place in places:
            data = bytearray(self.good)
            data[place] ^= 1 << draw.randrange(8)
            self.assertIsNotNone(find_fault(self.write(data)), place)

    def test_truncations_and_zeroed_pages(self):
        draw = random.Random(0)
        for _ in range(50):
            place = draw.randrange(len(self.good))
            page = place - place % 512
            zeroed = self.good[:page] + bytes(512) + self.good[page + 512 :]
            for data in (self.good[:place], zeroed[: len(self.good)], self.good + b"\0"):
                if data != self.good:
                    self.assertIsNotNone(find_fault(self.write(data)), place)

    def test_a_file_whose_save_has_no_number(self):
        self.assertEqual(save_number(self.path), 7)
        content = self.good[:-102]  # the first releases' comment
        comment = b"checkpoint 1 sha256 " + hashlib.sha256(content + b"\0\0").hexdigest().encode()
        path = self.write(content + len(comment).to_bytes(2, "little") + comment)
        self.assertEqual((find_fault(path), save_number(path)), (None, 0))

    def test_another_format(self):
        torch.save(self.state, self.folder / "old.pt")
        self.write(self.good.replace(b"checkpoint 1 sha256", b"checkpoint 2 sha256"), "newer.pt")
        for name, found in (("old.pt", r"0 \(no digest: .*\)"), ("newer.pt", "2")):
            message = (
                f"{name}: .* to go on from: it has format {found}, this engine resumes from format 1; .*start_epoch 0"
            )
            with self.assertRaisesRegex(UserError, message):
                read_checkpoint(self.folder / name)
            self.assertIsNone(find_fault(self.folder / name, for_weights=True))
            self.assertEqual(read_plain(self.folder / name)["trainer"], {"epoch": 3})


class TestForeign(FileTest):
    """Files that are no checkpoints: one line, and no code is run."""

    def refused(self, path):
        for read in (read_checkpoint, read_plain):
            with self.assertRaisesRegex(UserError, f"{path.name}: no checkpoint") as caught:
                read(path)
            self.assertNotIn("\n", str(caught.exception))

    def test_files_that_are_none(self):
        ran = self.folder / "code_ran"
        write_durably({"model": CodeOnLoad(str(ran))}, self.folder / "code.pt")
        torch.save({"model": CodeOnLoad(str(ran))}, self.folder / "plain_code.pt")
        contents = {
            "foreign.pt": b"not a checkpoint" * 20,
            "empty.pt": b"",
            "truncated.pt": self.good[: len(self.good) // 2],
            "pickle.pt": pickle.dumps(CodeOnLoad(str(ran))),
        }
        for name, content in contents.items():
            self.write(content, name)
        torch.save(self.state, self.folder / "ancient.pt", _use_new_zipfile_serialization=False)
        for name in (*contents, "code.pt", "plain_code.pt", "ancient.pt"):
            with self.subTest(name=name):
                self.refused(self.folder / name)
        self.assertFalse(ran.exists())

    def test_a_damaged_file_of_others(self):
        torch.save(self.state, self.folder / "plain.pt")
        data = bytearray((self.folder / "plain.pt").read_bytes())
        data[len(data) // 2] ^= 1
        self.refused(self.write(data))

    def test_a_file_with_something_else(self):
        write_durably([1, 2], self.folder / "list.pt")
        with self.assertRaisesRegex(UserError, "expected a dict of parts, found list"):
            read_checkpoint(self.folder / "list.pt")

    @unittest.skipUnless(os.geteuid() == 0, "needs a second user")
    def test_a_file_that_may_not_be_read(self):
        self.path.chmod(0)
        self.addCleanup(os.seteuid, 0)
        for mode in (0o755, 0o700):  # the second time the folder cannot be entered either
            os.seteuid(0)
            self.folder.chmod(mode)
            os.seteuid(65534)
            for read in (read_checkpoint, read_plain):
                message = "good.pt: no checkpoint.*: it cannot be read: Permission denied"
                with self.subTest(mode=mode, read=read), self.assertRaisesRegex(UserError, message):
                    read(self.path)

    def test_no_such_file(self):
        with self.assertRaisesRegex(UserError, "no such checkpoint, did you mean 'good.pt'"):
            read_checkpoint(self.folder / "goood.pt")


class TestWithoutTheRoom(FileTest):
    """A sharded checkpoint in a project without ``common/sharding``."""

    def test_it_is_named(self):
        path = self.folder / "sharded.pt"
        write_durably({"model": {}, SHARDS: {"folder": "a", "files": {}}}, path)
        with mock.patch("common.config.registry.has_room", return_value=False):
            for read in (find_fault, read_checkpoint, read_plain):
                with self.assertRaisesRegex(UserError, "sharded.pt: needs the room common/sharding"):
                    read(path)
            self.assertIsNone(find_fault(self.path))


class TestWeights(unittest.TestCase):
    """The weights of a model, out of checkpoints and bare state dicts."""

    def read(self, state, **keys):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.pt"
            torch.save(state, path)
            return read_weights(path, **keys)

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

    def test_tensors_that_are_no_weights(self):
        odd = {
            "meta": torch.empty(3, device="meta"),
            "sparse": torch.eye(3).to_sparse(),
            "text": "weights",
        }
        for name, value in odd.items():
            for state in ({"model": {"w": value}}, {"w": value}, {"model": [value]}, {"model": {}}):
                with self.subTest(name=name), self.assertRaisesRegex(UserError, "holds no 'model'"):
                    self.read(state)

    def test_matching(self):
        model = nn.Linear(2, 1)
        report = load_matching(model, {"weight": torch.ones(1, 2), "bias": torch.ones(3), "extra": torch.ones(1)}, "f")
        self.assertTrue(torch.equal(model.weight, torch.ones(1, 2)))
        self.assertEqual(report, ["bias: (3,) in the file, (1,) in the model", "extra: not in the model"])

    def test_nothing_matches(self):
        with self.assertRaisesRegex(UserError, "none of its 1 weights fits the model Linear"):
            load_matching(nn.Linear(2, 1), {"other": torch.ones(1)}, "f")
