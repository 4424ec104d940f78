"""A text → its continuation, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from common.deploy.task import TASK_REGISTRY, About, Task, read_text


@TASK_REGISTRY.register()
class ContinueText(Task):
    """Continues a text with the likeliest byte, again and again.

    The model returns logits (batch, length, 256) from bytes, int64 (batch, length).

    Args:
        about: What the model's file says of itself.
        length: How many bytes to add.
        context: How many of the last bytes the model is given. None: as many as the config's ``model.context``.
    """

    accepts = "text"
    tag = "text-generation"

    def __init__(self, about: About, length: int = 200, context: int | None = None):
        super().__init__(about)
        self.length, self.context = length, context or about.config["model"].get("context", 256)

    def read(self, source: Any) -> dict[str, Any]:
        """Return ``{"tokens": int64 (length,)}``; raise a ValueError for an empty text."""
        text = read_text(source)
        if not text:
            raise ValueError("expected a text, found an empty one")
        return {"tokens": torch.tensor(list(text.encode()))}

    def forward(self, model: Callable[..., Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Return the bytes that follow, int64 (batch, length)."""
        tokens = batch["tokens"]
        for _ in range(self.length):
            following = model(tokens[:, -self.context :])[:, -1].argmax(dim=-1, keepdim=True)
            tokens = torch.cat([tokens, following], dim=1)
        return {"tokens": tokens[:, -self.length :]}

    def answer(self, data_dict: dict[str, Any], output_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the continuation; bytes that are no UTF-8 become question marks."""
        return {"text": bytes(output_dict["tokens"].tolist()).decode("utf-8", errors="replace")}

    def describe(self, answer: dict[str, Any]) -> str:
        """Return the continuation."""
        return answer["text"]
