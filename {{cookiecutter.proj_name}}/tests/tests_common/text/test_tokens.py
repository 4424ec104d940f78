"""Text as bytes, and as the tokens of a library, of which a stand-in has the same names."""

import importlib.util
import json
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

import numpy as np

from common.config.errors import UserError
from common.text import train_tokenizer
from common.text.corpus import open_corpus
from common.text.tokens import ByteTokens, open_tokens

HAS_LIBRARY = importlib.util.find_spec("tokenizers") is not None


class Words:
    """A stand-in for ``tokenizers.Tokenizer``: each word is a token."""

    def __init__(self, words):
        self.words = words

    @classmethod
    def from_file(cls, path):
        return cls(json.loads(Path(path).read_text()))

    def get_vocab_size(self):
        return len(self.words)

    def token_to_id(self, word):
        return self.words.index(word) if word in self.words else None

    def encode(self, text, add_special_tokens):
        assert not add_special_tokens
        return types.SimpleNamespace(ids=[self.words.index(word) for word in text.split()])

    def decode(self, ids):
        return " ".join(self.words[i] for i in ids)


class TestBytes(unittest.TestCase):
    def test_there_and_back(self):
        text = "naïve 日本 \U0001f600\n"
        encoded = ByteTokens().encode(text.encode())
        self.assertEqual((encoded.dtype, len(encoded)), (np.uint8, len(text.encode())))
        self.assertEqual(ByteTokens().decode(encoded.tolist()), text)

    def test_what_is_no_text(self):
        self.assertEqual(ByteTokens().decode([0, 255, 65]), "\n\ufffdA")

    def test_a_model_with_too_few_tokens(self):
        self.assertIsInstance(open_tokens(None, 256), ByteTokens)
        with self.assertRaisesRegex(UserError, "^model.vocab_size: bytes need 256, found 100$"):
            open_tokens(None, 100)


class TestLibrary(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.path = str(self.folder / "tokenizer.json")

    def stand_in(self, words=("<|endoftext|>", "to", "be", "or", "not")):
        Path(self.path).write_text(json.dumps(words))
        module = types.ModuleType("tokenizers")
        module.Tokenizer = Words
        patch = mock.patch.dict(sys.modules, {"tokenizers": module})
        patch.start()
        self.addCleanup(patch.stop)

    def test_words(self):
        self.stand_in()
        tokens = open_tokens(self.path)
        self.assertEqual((tokens.vocab_size, tokens.dtype, tokens.separator), (5, np.uint16, [0]))
        self.assertEqual(tokens.encode(b"to be or not to be").tolist(), [1, 2, 3, 4, 1, 2])
        self.assertEqual(tokens.decode([1, 2]), "to be")
        with self.assertRaisesRegex(UserError, "^model.vocab_size: .*json need 5, found 4$"):
            open_tokens(self.path, 4)

    def test_a_corpus_of_words(self):
        self.stand_in()
        (self.folder / "hamlet.txt").write_text("to be or not to be\n" * 100)
        corpus = open_corpus(self.folder / "hamlet.txt", "train", self.path, str(self.folder / "cache"))
        self.assertEqual(corpus.tokens[:8].tolist(), [0, 1, 2, 3, 4, 1, 2, 1])
        self.assertEqual(corpus.length, 1 + 6 * 90 + 6)  # the line that the first 90 % end in is whole
        self.assertAlmostEqual(corpus.bytes_per_token, (1 + 19 * 91) / (1 + 6 * 91))

    def test_many_tokens_and_no_separator(self):
        self.stand_in([f"w{i}" for i in range(70_000)])
        tokens = open_tokens(self.path)
        self.assertEqual((tokens.dtype, tokens.separator), (np.uint32, []))

    def test_what_is_missing(self):
        with mock.patch.dict(sys.modules, {"tokenizers": None}):
            with self.assertRaisesRegex(UserError, r"^tokenizer: \S+ needs .*: pip install tokenizers$"):
                open_tokens(self.path)
            with self.assertRaisesRegex(SystemExit, "^train_tokenizer: error: .*pip install tokenizers$"):
                train_tokenizer.main([str(self.folder)])
        self.stand_in()
        with self.assertRaisesRegex(UserError, "none.json not found; python -m common.text.train_tokenizer makes one"):
            open_tokens("none.json")
        Path(self.path).write_text("no JSON")
        with self.assertRaisesRegex(UserError, "json cannot be read: Expecting value"):
            open_tokens(self.path)

    @unittest.skipUnless(HAS_LIBRARY, "needs the library tokenizers")
    def test_the_library_itself(self):
        (self.folder / "texts").mkdir()
        (self.folder / "texts/one.txt").write_text("naïve words, naïve 日本\n" * 50)
        train_tokenizer.main([str(self.folder / "texts"), "--size", "300", "--out", self.path])
        tokens = open_tokens(self.path)
        self.assertEqual((tokens.vocab_size <= 300, tokens.separator), (True, [0]))
        encoded = tokens.encode("naïve 日本\n".encode())
        self.assertLess(len(encoded), 15)
        self.assertEqual(tokens.decode(encoded.tolist()), "naïve 日本\n")


if __name__ == "__main__":
    unittest.main()
