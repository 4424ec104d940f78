"""Text as numbers: its own bytes, or the tokens of the library ``tokenizers``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.config.errors import UserError, one_line

_ENDS = ("<|endoftext|>", "</s>", "[SEP]", "<eos>")  # what tokenizers call the end of a text


class ByteTokens:
    """Each byte is a token, which encodes any text in any language; 0, which no text holds, stands between texts."""

    vocab_size = 256
    dtype = np.dtype(np.uint8)
    separator: list[int] = [0]

    def encode(self, data: bytes) -> np.ndarray:
        """Return the tokens, (bytes,), of a text."""
        return np.frombuffer(data, np.uint8)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return tokens as text; what is no UTF-8 becomes U+FFFD."""
        return bytes(tokens).replace(b"\0", b"\n").decode("utf-8", errors="replace")


class LibraryTokens:
    """The tokens of a ``tokenizer.json``, the file in which the library ``tokenizers`` keeps a tokenizer.

    Raises:
        UserError: The library is not installed, or the file cannot be read.
    """

    def __init__(self, path: str | Path):
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UserError(f"tokenizer: {path} needs a library that is missing: pip install tokenizers") from None
        if not Path(path).is_file():
            raise UserError(f"tokenizer: {path} not found; python -m common.text.train_tokenizer makes one")
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no other class
            raise UserError(f"tokenizer: {path} cannot be read: {one_line(error)}") from error
        self.vocab_size = int(self._tokenizer.get_vocab_size())
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        ends = [self._tokenizer.token_to_id(name) for name in _ENDS]
        self.separator: list[int] = [number for number in ends if number is not None][:1]

    def encode(self, data: bytes) -> np.ndarray:
        """Return the tokens, (tokens,), of a text in UTF-8; bytes that are none become U+FFFD."""
        text = data.decode("utf-8", errors="replace")
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, self.dtype)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return tokens as text."""
        return self._tokenizer.decode(list(tokens))


Tokens = ByteTokens | LibraryTokens


def open_tokens(path: str | None, vocab_size: int | None = None) -> Tokens:
    """Return the tokens of a ``tokenizer.json``, or bytes for None.

    Args:
        vocab_size: The number of tokens that a model knows, to be checked.

    Raises:
        UserError: There is no such tokenizer, or it has more tokens than the model.
    """
    tokens = LibraryTokens(path) if path else ByteTokens()
    if vocab_size is not None and tokens.vocab_size > vocab_size:
        raise UserError(f"model.vocab_size: {path or 'bytes'} need {tokens.vocab_size}, found {vocab_size}")
    return tokens
