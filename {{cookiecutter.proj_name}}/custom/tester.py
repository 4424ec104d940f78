"""How your model is evaluated: what one step does, and what is recorded of each sample."""

from __future__ import annotations

from torch import nn

from common import BatchTester, Config, Session, build_loader, build_metric, find_room, get_rank

pictures = find_room("vision.pictures")  # None in a project without that room: then nothing is drawn


class CustomTester(BatchTester):
    """Evaluates a model on ``dataset.eval``, or on its first ``max_samples`` samples."""

    def __init__(self, config: Config, session: Session, model: nn.Module, max_samples: int | None = None):
        super().__init__(config, session)
        self.register_model(model)
        self.register_loader(build_loader(config, "eval", session.device.type == "cuda", max_samples))
        self.register_metric(build_metric(config.metric))

    def before_test_epoch(self) -> None:
        """Begin an empty page of samples, which rank 0 draws."""
        self.page = None
        if pictures and get_rank() == 0:
            progress = self.config.progress
            self.page = pictures.SamplePage(self.folder, progress.max_samples_val, progress.sample_save_eval)

    def test_step(self, iteration: int, data_dict: dict) -> dict:
        """Return the logits of a batch, (batch, classes, ...)."""
        return {"logits": self.model(data_dict["image"])}

    def eval_step(self, iteration: int, data_dict: dict, output_dict: dict) -> dict:
        """Return each metric's value for one sample."""
        return self.metric.of_sample(output_dict, data_dict)

    def after_test_step(self, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """Add a classification's guess to the sample's line in ``samples.csv``, and its picture to the page."""
        row = self.rows[-1]
        if output_dict["logits"].ndim == 1:
            probabilities = output_dict["logits"].float().softmax(dim=0)
            guess = int(probabilities.argmax())
            row.update({"label": int(data_dict["label"])} if "label" in data_dict else {})  # a set may have no labels
            row.update(guess=guess, confidence=float(probabilities[guess]))
        if self.page:
            self.page.add(row, data_dict, output_dict)

    def after_test_epoch(self, summary_dict: dict[str, float]) -> None:
        """Draw the page."""
        if self.page:
            self.page.write()
