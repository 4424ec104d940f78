"""How your model is evaluated."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from common.build import build_loader, build_metric
from common.distributed import master_only
from common.engine import BatchTester
from common.launch import Session
from common.schema import Config


class CustomTester(BatchTester):
    """Evaluates a classifier of images on ``dataset.eval``, and draws what it guessed right and wrong.

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
        self.samples: dict[bool, list[tuple[np.ndarray, int, int]]] = {True: [], False: []}

    def test_step(self, iteration: int, data_dict: dict) -> dict:
        """Return the logits of a batch, (batch, classes)."""
        return {"logits": self.model(data_dict["image"])}

    def eval_step(self, iteration: int, data_dict: dict, output_dict: dict) -> dict:
        """Return how sure the model is of the right class of one sample."""
        return {"confidence": output_dict["logits"].softmax(dim=0)[data_dict["label"]]}

    def after_test_step(self, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """Keep the first few samples that are right, and that are wrong."""
        guess, label = int(output_dict["logits"].argmax()), int(data_dict["label"])
        kept = self.samples[guess == label]
        if len(kept) < self.config.progress.max_samples_val:
            kept.append((data_dict["image"][0].cpu().numpy(), guess, label))

    def after_test_epoch(self, summary_dict: dict[str, float]) -> None:
        """Draw the samples that were kept."""
        self.draw()

    @master_only
    def draw(self) -> None:
        """Write ``predictions.png``: right guesses in the upper row, wrong ones below, each with guess and truth."""
        columns = max(1, *map(len, self.samples.values()))
        figure = Figure(figsize=(columns, 3), layout="constrained")
        rows = zip(figure.subplots(2, columns, squeeze=False), ((True, "right"), (False, "wrong")), strict=True)
        for axes, (is_right, title) in rows:
            for axis in axes:
                axis.set(xticks=[], yticks=[], frame_on=False)
            axes[0].set_ylabel(title)
            for axis, (image, guess, label) in zip(axes, self.samples[is_right], strict=False):
                axis.imshow(image, cmap="gray_r")
                axis.set_title(f"{guess}" if is_right else f"{guess}, is {label}", fontsize=9)
        figure.savefig(self.folder / "predictions.png", dpi=150)
