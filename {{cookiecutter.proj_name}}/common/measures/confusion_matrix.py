"""The confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from common.config.registry import METRIC_REGISTRY
from common.measures.torch_metric import TorchMetric

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@METRIC_REGISTRY.register()
class ConfusionMatrix(TorchMetric):
    """How often each class is predicted as each other one. An evaluation draws the matrix.

    Its number is the balanced accuracy, which is the mean recall.
    Source: Brodersen et al., The balanced accuracy and its posterior distribution (2010).

    Args:
        num_classes: Number of classes.
        names: Their names for the picture. None: their numbers.
        input_name: Names of the logits (batch, classes, ...) and of the class numbers (batch, ...).

    Raises:
        ValueError: The number of names is not ``num_classes``.
    """

    def __init__(
        self, num_classes: int, names: list[str] | None = None, input_name: Sequence[str] = ("logits", "label")
    ):
        from torchmetrics.classification import MulticlassConfusionMatrix

        super().__init__(MulticlassConfusionMatrix(num_classes), input_name)
        self.higher_is_better = True
        self.names = names or [str(number) for number in range(num_classes)]
        if len(self.names) != num_classes:
            raise ValueError(f"names: expected {num_classes}, one a class, found {len(self.names)}")
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def compute(self) -> float:
        """Return the mean recall of all classes that occur, NaN if none does, and set ``counts``. Collective.

        ``counts`` is int64 (classes, classes): true classes are rows, predicted ones are columns.
        """
        self.counts = self.metric.compute().cpu()
        recalls = self.counts.diagonal().double() / self.counts.sum(dim=1)
        return recalls.nanmean().item()

    def draw(self) -> Figure:
        """Return ``counts`` as a picture, colored by the share of the true class."""
        from matplotlib.figure import Figure

        size = len(self.names)
        figure = Figure(figsize=(2.2 + 0.42 * size, 1.8 + 0.42 * size), layout="constrained")
        axis = figure.subplots()
        shares = (self.counts / self.counts.sum(dim=1, keepdim=True).clamp(min=1)).numpy()
        image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axis, label="share of the true class", shrink=0.8)
        turned = max(map(len, self.names)) > 3
        axis.set_xticks(range(size), self.names, rotation=45 if turned else 0, ha="right" if turned else "center")
        axis.set_yticks(range(size), self.names)
        axis.set(xlabel="predicted class", ylabel="true class")
        for row, column in self.counts.nonzero().tolist():
            color, count = "white" if shares[row, column] > 0.5 else "black", self.counts[row, column]
            axis.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=8)
        return figure
