"""How a GAN is evaluated: by the distance of what it draws from real images, and by what a classifier sees in it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from common import TESTER_REGISTRY, BatchTester, Config, Session, build_loader, build_metric, build_model, get_rank
from common.images.pictures import SamplePage
from common.state.file import load_exactly
from custom.metrics.frechet_metric import draw_and_compare


@TESTER_REGISTRY.register("GAN")
class GANTester(BatchTester):
    """Draws an image for each of ``dataset.eval``, or of its first ``max_samples``, of the same class."""

    def __init__(self, config: Config, session: Session, models: dict | None = None, max_samples: int | None = None):
        super().__init__(config, session)
        names = ("generator", "features")
        models = models or {name: build_model(config.model.get(name, {}), f"model.{name}") for name in names}
        self.register_model(nn.ModuleDict({name: models[name] for name in names}))
        self.register_loader(build_loader(config, "eval", session.device.type == "cuda", max_samples))
        self.register_metric(build_metric(config.metric))

    def load_weights(self, path: Path) -> None:
        """Load the generator's averaged weights, and the classifier that the training compared by."""
        for name, model in self.model.named_children():
            load_exactly(model, path, f"model.{name}")

    def before_test_epoch(self) -> None:
        """Begin an empty page, which rank 0 draws; the noise is always the same."""
        torch.manual_seed(get_rank())
        progress = self.config.progress
        self.page = SamplePage(self.folder, progress.max_samples_val, progress.sample_save_eval)

    def test_step(self, iteration: int, data_dict: dict) -> dict:
        """Return generated images, and what the classifier sees in these and in the real ones."""
        return draw_and_compare(dict(self.model.named_children()), data_dict)

    def eval_step(self, iteration: int, data_dict: dict, output_dict: dict) -> dict:
        """Return each metric's value for one generated image."""
        return self.metric.of_sample(output_dict, data_dict)

    def after_test_step(self, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """Add the classifier's guess to the image's line in ``samples.csv``, and the image to the page."""
        self.rows[-1] |= {"label": int(data_dict["label"]), "guess": int(output_dict["logits"].argmax())}
        if get_rank() == 0:
            self.page.add(self.rows[-1], {"image": output_dict["generated"]}, output_dict)

    def after_test_epoch(self, summary_dict: dict[str, float]) -> None:
        """Draw the page."""
        self.page.write()
