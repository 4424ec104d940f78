"""How a model of images is evaluated: what one step does, and what is recorded of each sample."""

from __future__ import annotations

from torch import nn

from common import (
    TESTER_REGISTRY,
    BatchTester,
    Config,
    Session,
    build_loader,
    build_metric,
    build_model,
    find_room,
    get_rank,
)

pictures = find_room("images.pictures")  # None in a project without that room: then nothing is drawn
labels = find_room("images.classes")


@TESTER_REGISTRY.register("Image")
class ImageTester(BatchTester):
    """Evaluates a trainer's model, or that of the config, on ``dataset.eval`` or its first ``max_samples`` samples."""

    def __init__(
        self, config: Config, session: Session, model: nn.Module | None = None, max_samples: int | None = None
    ):
        if model is None and labels and session.checkpoint:  # it tells the names and the number of the classes
            config = labels.fit_to_checkpoint(config, session.checkpoint)
        super().__init__(config, session)
        self.classes = (config.dataset.eval or {}).get("classes")
        self.register_model(build_model(config.model) if model is None else model)
        self.register_loader(build_loader(config, "eval", session.device.type == "cuda", max_samples))
        self.register_metric(build_metric(config.metric))

    def before_test_epoch(self) -> None:
        """Begin an empty page of samples, which rank 0 draws."""
        self.page = None
        if pictures and get_rank() == 0:
            progress = self.config.progress
            find_path = getattr(self.test_loader.dataset, "path", lambda number: None)
            self.page = pictures.SamplePage(self.folder, progress.max_samples_val, progress.sample_save_eval, find_path)

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
            shown = {"guess": int(probabilities.argmax())}
            if "label" in data_dict:  # a set may have none
                shown = {"label": int(data_dict["label"])} | shown
            row.update({name: self.classes[n] if self.classes else n for name, n in shown.items()})
            row["confidence"] = float(probabilities.max())
        if self.page:
            self.page.add(row, data_dict, output_dict)

    def after_test_epoch(self, summary_dict: dict[str, float]) -> None:
        """Draw the page."""
        if self.page:
            self.page.write()
