"""How your model is evaluated."""

from __future__ import annotations

import torch
from torch import nn

from common.config.build import build_loader, build_metric
from common.config.schema import Config
from common.engine import BatchTester
from common.run.distributed import get_rank, master_only
from common.run.launch import Session
from common.vision.pictures import ShownSample, describe_sample, draw_sample, sample_figure, write_picture

ACROSS = 2  # samples with several pictures beside each other on the page


class CustomTester(BatchTester):
    """Evaluates a model on ``dataset.eval``, and shows samples beside what it makes of them.

    Args:
        config: The whole config.
        session: Device and folder, from ``launch``.
        model: The model, with the weights to evaluate.
        max_samples: Evaluate only the first so many samples. None: all.
    """

    def __init__(self, config: Config, session: Session, model: nn.Module, max_samples: int | None = None):
        super().__init__(config, session)
        self.register_model(model)
        self.register_loader(build_loader(config, "eval", session.device.type == "cuda", max_samples))
        self.register_metric(build_metric(config.metric))

    def before_test_epoch(self) -> None:
        """Forget the samples of an earlier evaluation."""
        self.groups: dict[str, list[ShownSample]] = {}

    def test_step(self, iteration: int, data_dict: dict) -> dict:
        """Return the logits of a batch, (batch, classes, ...)."""
        return {"logits": self.model(data_dict["image"])}

    def eval_step(self, iteration: int, data_dict: dict, output_dict: dict) -> dict:
        """Return what each metric says of one sample."""
        return self.metric.of_sample(output_dict, data_dict)

    def after_test_step(self, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """Note what is to be said of a sample; keep the first few of each group, and write every so many to a file."""
        sample, progress = describe_sample(data_dict, output_dict, result_dict), self.config.progress
        group, every, number = self.groups.setdefault(sample.group, []), progress.sample_save_eval, len(self.rows) - 1
        is_written = every > 0 and number % every == 0 and get_rank() == 0
        is_shown = len(group) < progress.max_samples_val
        if is_written or is_shown:
            sample.pictures = draw_sample(data_dict, output_dict)
        if is_written and sample.pictures:
            self.write_sample(sample, self.rows[-1]["sample"])
        if is_shown and sample.pictures:
            group.append(sample)
        self.rows[-1] |= sample.facts

    def write_sample(self, sample: ShownSample, number: int) -> None:
        """Write a sample's pictures beside each other to ``samples/<number>.png``."""
        picture = torch.cat(list(sample.pictures.values()), dim=2)
        write_picture(picture, self.folder / "samples" / f"{number:06d}.png")

    def after_test_epoch(self, summary_dict: dict[str, float]) -> None:
        """Draw the samples that were kept."""
        self.draw()

    @master_only
    def draw(self) -> None:
        """Write ``predictions.png``: a row for each group of samples, or several where there is but one group."""
        rows = sorted((name, samples) for name, samples in self.groups.items() if samples)
        if len(rows) == 1 and not rows[0][0]:
            samples = rows[0][1]
            rows = [("", samples[i : i + ACROSS]) for i in range(0, len(samples), ACROSS)]
        if rows:
            sample_figure(rows).savefig(self.folder / "predictions.png", dpi=150)
