"""Text files as tokens in one memory-mapped file."""

import multiprocessing
import os
import pickle
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

from common.config.errors import UserError
from common.text import corpus
from common.text.corpus import SPLITS, find_texts, open_corpus


def open_in_a_process(source, cache, pipe):
    """Encode, and tell how long the text is and how often this process wrote it."""
    with mock.patch.object(corpus, "_write", wraps=corpus._write) as write:
        pipe.put((open_corpus(source, "train", cache=cache).length, write.call_count))


class TestCorpus(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.texts, self.cache = self.folder / "texts", str(self.folder / "cache")
        self.texts.mkdir()
        said = mock.patch.object(corpus, "add_log")
        self.said = said.start()
        self.addCleanup(said.stop)

    def write(self, count, size=1000):
        for i in range(count):
            (self.texts / f"{i:03}.txt").write_text(f"{i:03} " * (size // 4))

    def read(self, split="train", source=None):
        return open_corpus(source or self.texts, split, cache=self.cache)

    def encodings(self):
        return sum("encoding" in call.args[0] for call in self.said.call_args_list)

    def test_each_file_is_in_one_split(self):
        self.write(100)
        found = {split: bytes(self.read(split).tokens).split(b"\0")[1:] for split in SPLITS}
        self.assertEqual({split: len(texts) for split, texts in found.items()}, {"train": 90, "val": 5, "eval": 5})
        every = [text for texts in found.values() for text in texts]
        self.assertEqual(sorted(every), [path.read_bytes() for path in sorted(self.texts.iterdir())])
        self.assertEqual(found["train"], sorted(found["train"]))
        self.assertEqual(self.encodings(), 1)

    def test_few_files_are_divided_themselves(self):
        lines = "".join(f"line {i:05}\n" for i in range(2000))
        (self.texts / "one.txt").write_text(lines)
        parts = [bytes(self.read(split).tokens) for split in SPLITS]
        self.assertEqual("".join(part.decode().removeprefix("\0") for part in parts), lines)
        self.assertTrue(all(part.startswith(b"\0line") and part.endswith(b"\n") for part in parts))
        self.assertAlmostEqual(len(parts[1]) / len(lines), 0.05, delta=0.001)

    def test_a_single_file_without_lines(self):
        (self.texts / "one.txt").write_text("x" * 10_000)
        lengths = [self.read(split, self.texts / "one.txt").length for split in SPLITS]
        self.assertEqual(lengths, [9001, 501, 501])

    def test_encoded_again_when_a_file_changes(self):
        self.write(30)
        before = bytes(self.read().tokens)
        self.assertEqual((bytes(self.read().tokens), self.encodings()), (before, 1))
        path = self.texts / "003.txt"
        path.write_text(path.read_text().replace("003", "abc"))
        os.utime(path, ns=(1, 1))
        self.assertIn(b"abc", b"".join(bytes(self.read(split).tokens) for split in SPLITS))
        self.assertEqual(self.encodings(), 2)
        path.unlink()
        self.assertNotIn(b"abc", b"".join(bytes(self.read(split).tokens) for split in SPLITS))
        self.assertEqual(self.encodings(), 3)
        self.assertEqual(len(list(Path(self.cache).glob("*.bin"))), 1)

    def test_a_damaged_file_is_written_again(self):
        self.write(30)
        before = bytes(self.read().tokens)
        (path,) = Path(self.cache).glob("*.bin")
        whole = path.read_bytes()
        for data in (b"", b"junk", b'["no header"]', whole[:-1]):
            path.write_bytes(data)
            self.assertEqual(bytes(self.read().tokens), before)

    def test_large_files_in_pieces(self):
        lines = "".join(f"line {i:05}\n" for i in range(2000))
        (self.texts / "one.txt").write_text(lines)
        with mock.patch.object(corpus, "_CHUNK", 1234):
            parts = [bytes(self.read(split).tokens).decode().removeprefix("\0") for split in SPLITS]
        self.assertEqual("".join(parts), lines)

    def test_what_is_no_text_is_named(self):
        self.write(3)
        (self.texts / "picture.png").write_bytes(b"\x89PNG\0\0")
        (self.texts / "empty.txt").touch()
        (self.texts / ".hidden").write_text("hidden")
        (self.texts / ".git").mkdir()
        (self.texts / ".git/config").write_text("hidden")
        (self.texts / "inner").mkdir()
        (self.texts / "inner/naïve.txt").write_text("inner")
        _, files = find_texts(self.texts)
        self.assertEqual([path.name for path in files], ["000.txt", "001.txt", "002.txt", "naïve.txt"])
        self.assertRegex(self.said.call_args.args[0], "2 files are no text, such as .*empty.txt")

    def test_no_texts(self):
        with self.assertRaisesRegex(UserError, r"none of its 0 files is a text that can be read"):
            self.read()
        with self.assertRaisesRegex(UserError, "^nowhere: no such folder of texts; --dir.data_dir takes"):
            self.read(source="nowhere")

    def test_a_folder_that_cannot_be_written(self):
        self.write(3)
        Path(self.cache).write_text("a file where the folder should be")
        with self.assertRaisesRegex(UserError, r"\.bin: cannot be written: "):
            self.read()

    def test_the_standard_library(self):
        root, files = find_texts("stdlib")
        names = {path.relative_to(root).as_posix() for path in files}
        self.assertLessEqual({"this.py", "json/decoder.py", "os.py"}, names)
        self.assertFalse([name for name in names if not name.endswith(".py") or "site-packages" in name])
        (self.folder / "stdlib").mkdir()
        (self.folder / "stdlib/own.txt").write_text("own")
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        self.assertEqual([path.name for path in find_texts("stdlib")[1]], ["own.txt"])

    def test_it_is_mapped_not_read(self):
        self.write(30)
        one = self.read()
        self.assertIsInstance(one.tokens, np.memmap)
        data = pickle.dumps(one)
        self.assertLess(len(data), 1000)
        self.assertEqual(bytes(pickle.loads(data).tokens), bytes(one.tokens))

    def test_of_several_processes_one_writes(self):
        self.write(200, 10_000)
        context = multiprocessing.get_context("spawn")
        pipe = context.SimpleQueue()
        keys = (str(self.texts), self.cache, pipe)
        processes = [context.Process(target=open_in_a_process, args=keys) for _ in range(3)]
        for process in processes:
            process.start()
        found = [pipe.get() for _ in processes]
        for process in processes:
            process.join()
        self.assertEqual([length for length, _ in found], [180 * 10_001] * 3)
        self.assertEqual(sum(written for _, written in found), 1)


if __name__ == "__main__":
    unittest.main()
