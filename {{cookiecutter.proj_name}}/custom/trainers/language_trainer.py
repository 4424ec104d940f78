"""How a language model is trained: its parts, built from the config, and what one step does."""

from __future__ import annotations

from common import (
    TRAINER_REGISTRY,
    Config,
    Session,
    Trainer,
    add_log,
    build_loader,
    build_loss,
    build_metric,
    build_model,
    build_optimizer,
    build_scheduler,
)
from common.text.generation import continue_text
from common.text.tokens import open_tokens
from custom.testers.language_tester import PROMPTS, WRITING, LanguageTester


@TRAINER_REGISTRY.register("Language")
class LanguageTrainer(Trainer):
    """Trains a model that predicts the next token."""

    def __init__(self, config: Config, session: Session):
        super().__init__(config, session)
        on_gpu = session.device.type == "cuda"
        self.register_loader(build_loader(config, "train", on_gpu), build_loader(config, "val", on_gpu))
        self.register_model(build_model(config.model))
        self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
        self.register_scheduler(build_scheduler(config.optim, self.optimizer, self.schedule_length))
        self.loss = build_loss(config.loss).to(self.device)
        self.register_metric(build_metric(config.metric))
        self.tokens = open_tokens((config.dataset.train or {}).get("tokenizer"), config.model.get("vocab_size"))
        if config.dataset.eval and (config.progress.epoch_eval or config.progress.init_eval):
            self.register_tester(LanguageTester(config, session, self.model, config.progress.max_samples_eval))

    def train_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return the logits and the losses of a batch."""
        output_dict = {"logits": self.model(data_dict["tokens"])}
        loss = self.loss(output_dict, data_dict)
        return output_dict, {"loss": loss["sum"], **{name: loss[name] for name in loss["names"]}}

    def val_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return the logits and the losses of a batch."""
        return self.train_step(epoch, iteration, data_dict)

    def after_val_epoch(self, epoch: int, summary_dict: dict[str, float]) -> None:
        """Log what the model writes by now; all ranks call it, since they may share the model."""
        text = continue_text(self.forms.bare["main"], self.tokens, PROMPTS[0], **WRITING)
        add_log(f"epoch {epoch} | sample\n{text}")
