"""Blocks of text for a model that predicts the next token."""

from __future__ import annotations

import numpy as np
import torch

from common import DATASET_REGISTRY, BaseDataset
from common.text.corpus import SPLITS, open_corpus


@DATASET_REGISTRY.register()
class TextDataset(BaseDataset):
    """The text files in a folder, or the source code of Python's standard library, in blocks of ``context`` tokens.

    A sample is ``{"tokens": int64 (context,), "target": int64 (context,), "bytes": float32}``: the target is each
    token's successor, -100 behind the end of the text; ``bytes`` is the length of the text that the targets stand for.
    In training, block ``i`` begins at a random place in the i-th stretch of the text, another one in each epoch.
    ``val`` and ``eval`` are read from end to end, each token once.

    Args:
        data_dir: A folder of text files, a single file, or ``stdlib``.
        split: ``train``, ``val`` or ``eval``.
        context: Tokens of a block.
        tokenizer: A ``tokenizer.json`` of the library ``tokenizers``; None for bytes.
        cache: The folder of the encoded text.
    """

    random_generators = ("torch",)

    def __init__(
        self,
        data_dir: str,
        split: str = "train",
        context: int = 256,
        tokenizer: str | None = None,
        cache: str = "data/text",
    ):
        super().__init__(data_dir)
        self.check_split(split, SPLITS)
        if context < 1:
            raise ValueError(f"context must be at least 1, found {context}")
        self.corpus = open_corpus(data_dir, split, tokenizer, cache)
        self.context, self.is_random = context, split == "train"

    def __len__(self) -> int:
        return -(-(self.corpus.length - 1) // self.context)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        start = index * self.context
        if self.is_random:
            start += int(torch.randint(self.context, ()))
            start = max(0, min(start, self.corpus.length - 1 - self.context))
        block = self.corpus.tokens[start : start + self.context + 1].astype(np.int64)
        count = len(block) - 1
        tokens, target = np.zeros(self.context, np.int64), np.full(self.context, -100)
        tokens[:count], target[:count] = block[:-1], block[1:]
        size = torch.tensor(count * self.corpus.bytes_per_token)
        return {"tokens": torch.from_numpy(tokens), "target": torch.from_numpy(target), "bytes": size}
