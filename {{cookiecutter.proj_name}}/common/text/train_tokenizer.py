"""Make a tokenizer for your texts, by the library tokenizers: python -m common.text.train_tokenizer my_texts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.config.errors import UserError
from common.text.corpus import divide, find_texts


def train_tokenizer(source: str, size: int, path: Path) -> None:
    """Learn ``size`` tokens from the training files of a source, and write them to a ``tokenizer.json``.

    Source: Sennrich et al., Neural Machine Translation of Rare Words with Subword Units (2016), on bytes as in GPT-2.

    Raises:
        UserError: The library is not installed, or there are no texts.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise UserError("a library is missing: pip install tokenizers") from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    parts = divide(*find_texts(source))["train"]
    tokenizer.train_from_iterator((_read(*part) for part in parts), trainer, length=len(parts))
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def _read(path: Path, begin: int, end: int) -> str:
    return path.read_bytes()[begin:end].decode("utf-8", errors="replace")


def main(argv: list[str] | None = None) -> None:
    """Write the tokenizer that the command line asks for."""
    parser = argparse.ArgumentParser("python -m common.text.train_tokenizer", description=__doc__.partition(":")[0])
    parser.add_argument("source", nargs="?", default="stdlib", help="a folder, a file, or stdlib (default)")
    parser.add_argument("--size", type=int, default=4096, help="number of tokens, from 257 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("data/tokenizer.json"), help="default: %(default)s")
    words = parser.parse_args(argv)
    if words.size < 257:
        parser.error(f"--size: expected at least 257, found {words.size}")
    try:
        train_tokenizer(words.source, words.size, words.out)
    except UserError as error:
        sys.exit(f"train_tokenizer: error: {error}")
    print(f"{words.out}: set it as tokenizer in each section of dataset, and model.vocab_size to {words.size}")


if __name__ == "__main__":
    main()
