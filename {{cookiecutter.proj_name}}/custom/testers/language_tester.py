"""How a language model is evaluated: its bits per byte on each block of text, and what it writes by itself."""

from __future__ import annotations

from torch import nn

from common import (
    TESTER_REGISTRY,
    BatchTester,
    Config,
    Session,
    add_log,
    build_loader,
    build_metric,
    build_model,
    get_rank,
)
from common.text.generation import continue_text
from common.text.tokens import open_tokens

PROMPTS = ("", "def ", "class ")  # what the model continues; "": a text from its beginning
WRITING = {"count": 300, "temperature": 0.8, "top_k": 40}  # tokens behind each prompt, and how they are drawn


@TESTER_REGISTRY.register("Language")
class LanguageTester(BatchTester):
    """Evaluates a model on ``dataset.eval``, or on its first ``max_samples`` blocks."""

    def __init__(
        self, config: Config, session: Session, model: nn.Module | None = None, max_samples: int | None = None
    ):
        super().__init__(config, session)
        self.register_model(model or build_model(config.model))
        self.register_loader(build_loader(config, "eval", session.device.type == "cuda", max_samples))
        self.register_metric(build_metric(config.metric))
        self.tokens = open_tokens((config.dataset.eval or {}).get("tokenizer"), config.model.get("vocab_size"))

    def test_step(self, iteration: int, data_dict: dict) -> dict:
        """Return the logits of a batch, (batch, time, tokens)."""
        return {"logits": self.model(data_dict["tokens"])}

    def eval_step(self, iteration: int, data_dict: dict, output_dict: dict) -> dict:
        """Return each metric's value for one block."""
        return self.metric.of_sample(output_dict, data_dict)

    def after_test_epoch(self, summary_dict: dict[str, float]) -> None:
        """Let the model continue each prompt, into ``samples.txt``; all ranks call it, and rank 0 writes."""
        texts = [continue_text(self.model, self.tokens, prompt, **WRITING) for prompt in PROMPTS]
        if get_rank() == 0:
            (self.folder / "samples.txt").write_text("\n\n-----\n\n".join(texts) + "\n", encoding="utf-8")
            add_log(f"eval | sample\n{texts[0]}")
