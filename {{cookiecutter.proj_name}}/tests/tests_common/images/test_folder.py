"""Folders of pictures: which files are samples of which class and split, and what is said of the others."""

import os
import tempfile
import unicodedata
import unittest
from pathlib import Path
from unittest import mock

import torch
from PIL import Image

from common.config.build import build_loader
from common.config.errors import UserError
from common.config.schema import Config, DatasetConfig, DirConfig
from common.images.folder import ImageFolder


class FolderTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name) / "photos"
        self.root.mkdir()
        patch = mock.patch("common.images.folder.add_log")
        self.log = patch.start()
        self.addCleanup(patch.stop)

    def add(self, *names: str):
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 8), (len(name), 0, 0)).save(path)

    def load(self, split: str = "train", **keys) -> ImageFolder:
        return ImageFolder(str(self.root), split, size=4, **keys)

    def names(self, split: str, **keys) -> list[str]:
        dataset = self.load(split, **keys)
        return [dataset.path(i).relative_to(self.root).as_posix() for i in range(len(dataset))]

    def said(self) -> list[str]:
        return [call.args[0].replace(str(self.root), "ROOT") for call in self.log.call_args_list]


class TestPlain(FolderTest):
    def setUp(self):
        super().setUp()
        self.files = [f"{kind}/{i:02}_{part}.png" for kind in ("cat", "dog") for i in range(10) for part in "ab"]
        self.add(*self.files)

    def test_samples(self):
        dataset = self.load(crop=[0.5, 1.0])
        self.assertEqual(dataset.classes, ["cat", "dog"])
        for index in (0, 27):
            sample = dataset[index]
            self.assertEqual((sample["image"].shape, sample["image"].dtype), ((3, 4, 4), torch.uint8))
            self.assertEqual(dataset.classes[sample["label"]], dataset.path(index).parent.name)

    def test_each_class_is_divided(self):
        sets = {split: self.names(split) for split in ("train", "val", "eval")}
        self.assertEqual(sorted(sum(sets.values(), [])), self.files)
        self.assertEqual({split: len(names) for split, names in sets.items()}, {"train": 28, "val": 6, "eval": 6})
        for names in sets.values():
            self.assertEqual(sum(name.startswith("cat") for name in names), len(names) / 2)
        self.assertNotEqual(self.names("val", seed=1), sets["val"])
        self.assertEqual(self.names("val"), sets["val"])
        self.assertEqual(self.names("all"), self.files)

    def test_groups_stay_together(self):
        sets = [{name[:-6] for name in self.names(s, group="(.+)_", seed=3)} for s in ("train", "val", "eval")]
        self.assertEqual([len(groups) for groups in sets], [14, 3, 3])
        self.assertFalse(sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
        with self.assertRaisesRegex(UserError, r"^group: '\(': .*, expected a regular expression with one \(...\)$"):
            self.load(group="(")

    def test_a_class_whose_name_is_that_of_a_split(self):
        self.add("train/x.png", "val/x.png")
        self.assertEqual(self.load("all").classes, ["cat", "dog", "train", "val"])

    def test_given_classes(self):
        dataset = self.load("all", classes=["dog", "bird", "cat"])
        self.assertEqual([dataset[0]["label"], dataset[39]["label"]], [2, 0])
        self.assertEqual(self.load("all", classes=["dog"]).classes, ["dog"])
        self.assertIn("ROOT: left out as folders of other classes: cat", self.said())

    def test_mistakes(self):
        with self.assertRaisesRegex(UserError, r"--dir.data_dir \S+phots: no such folder, did you mean 'photos'\?"):
            ImageFolder(str(self.root.parent / "phots"))
        with self.assertRaisesRegex(UserError, "split must be one of train, val, eval, all, found 'test'"):
            self.load("test")
        with self.assertRaisesRegex(UserError, r"^\S+cat: no pictures in folders named after classes"):
            ImageFolder(str(self.root / "cat"))
        for keys in ({"crop": [0.0, 1.0]}, {"crop": [0.5]}, {"shares": [0.5, 0.5]}, {"shares": [0.9, 0.9, 0.0]}):
            with self.assertRaises(ValueError):
                self.load(**keys)


class TestFoldersOfSplits(FolderTest):
    def test_all_three(self):
        self.add("train/cat/a.png", "train/dog/b.png", "val/dog/c.png", "test/cat/d.png", "test/bird/e.png")
        self.assertEqual(self.names("train"), ["train/cat/a.png", "train/dog/b.png"])
        val, test = self.load("val"), self.load("eval")
        self.assertEqual((val.classes, val[0]["label"]), (["cat", "dog"], 1))
        self.assertEqual((test.classes, len(test), test[0]["label"]), (["cat", "dog"], 1, 0))
        self.assertIn("ROOT/test: left out as folders of other classes: bird", self.said())

    def test_without_val(self):
        self.add(*(f"train/{kind}/{i}.png" for kind in ("cat", "dog") for i in range(10)))
        train, val = self.names("train", shares=[0.6, 0.3, 0.1]), self.names("val", shares=[0.6, 0.3, 0.1])
        self.assertEqual((len(train), len(val), len({*train, *val})), (14, 6, 20))
        self.assertEqual(self.names("eval", shares=[0.6, 0.3, 0.1]), val)
        self.assertIn("ROOT: no folder eval or test, so the pictures of val are evaluated", self.said())

    def test_without_train(self):
        self.add("val/cat/a.png")
        self.assertEqual(self.names("eval"), ["val/cat/a.png"])
        with self.assertRaisesRegex(UserError, "photos: no folder train, found .*val$"):
            self.load("train")


class TestOddFiles(FolderTest):
    def test_each_is_named_in_one_line(self):
        self.add("cat/sub/A.JPG", "cat/.hidden.png", ".git/x.png", "dog/b.webp", "stray.png")
        for name in ("cat/notes.txt", "cat/new.heic", "dog/.DS_Store"):
            (self.root / name).write_text("text")
        (self.root / "empty").mkdir()
        self.assertEqual(self.names("all"), ["cat/sub/A.JPG", "dog/b.webp"])
        said = [
            "ROOT: left out as no files of pictures that Pillow reads in folders of classes: "
            "cat/new.heic, cat/notes.txt, stray.png",
            "ROOT: left out as folders without pictures: empty",
        ]
        self.assertEqual(self.said(), said)
        self.load("val")  # the training set has said it
        self.assertEqual(self.said(), said)

    def test_names(self):
        accent = unicodedata.normalize("NFD", "käse")
        self.add("train/käse/日本.png", f"val/{accent}/ü b.png", "train/猫/a.png")
        self.assertEqual(self.load("val").classes, ["käse", "猫"])
        self.assertEqual(self.load("val")[0]["label"], 0)
        broken = os.fsencode(self.root / "train/käse") + b"/\xff.png"
        Path(os.fsdecode(broken)).write_bytes((self.root / "train/猫/a.png").read_bytes())
        self.assertEqual(len(self.load("train")), 2)
        self.assertTrue(any("\\udcff.png" in line for line in self.said()))

    def test_one_class(self):
        self.add("cat/a.png", "cat/b.png")
        self.assertEqual(self.load("all").classes, ["cat"])
        self.assertEqual(self.said(), ["ROOT: one class only, cat: there is nothing to tell apart"])

    def test_a_broken_picture_is_replaced_or_named(self):
        self.add("cat/a.png", "cat/b.png", "cat/c.png")
        (self.root / "cat/b.png").write_bytes((self.root / "cat/a.png").read_bytes()[:40])
        section = {"type": "ImageFolder", "split": "all", "size": 4}
        for policy in ("raise", "replace"):
            config = Config(
                dir=DirConfig(data_dir=str(self.root)), dataset=DatasetConfig(train=section, bad_sample=policy)
            )
            if policy == "raise":
                with self.assertRaisesRegex(UserError, r"dataset.train: sample 1 \(\S+cat/b.png\) cannot be read: Uni"):
                    list(build_loader(config, "train"))
            else:
                (batch,) = build_loader(config, "train")
                self.assertEqual(batch["image"].shape, (3, 3, 4, 4))
