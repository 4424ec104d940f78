"""What a trainer's subclass implements and overrides: two steps, and hooks that do nothing until you fill them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Metrics(Protocol):
    """Measures over a whole set, on all ranks together."""

    def reset(self) -> None:
        """Forget what was seen."""

    def update(self, output_dict: dict, data_dict: dict) -> None:
        """Take in a batch."""

    def compute(self) -> dict[str, float]:
        """Return the values over all that was seen. Collective."""

    def draw(self) -> dict[str, Figure]:
        """Return pictures of what ``compute`` found last, by name."""


class TrainerHooks(ABC):
    """The steps and hooks of a training, in the order in which they are called."""

    @abstractmethod
    def train_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return a dict of the model's output and a dict of results, whose ``"loss"`` is differentiated.

        The result's scalars are recorded. ``iteration`` counts from 0 within the epoch.
        """

    @abstractmethod
    def val_step(self, epoch: int, iteration: int, data_dict: dict) -> tuple[dict, dict]:
        """Return a dict of the model's output and a dict of scalar results, the means over the batch."""

    def before_train_epoch(self, epoch: int) -> None:
        """Before a training epoch."""

    def before_train_step(self, epoch: int, iteration: int, data_dict: dict) -> None:
        """Before a training step."""

    def after_backward(self, epoch: int, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """After the backward pass, before the optimizer's step: the gradients are there."""

    def after_train_step(
        self, epoch: int, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict
    ) -> None:
        """After a training step."""

    def after_train_epoch(self, epoch: int, summary_dict: dict[str, float]) -> None:
        """After a training epoch; ``summary_dict`` has the mean of each result over the epoch."""

    def before_val_epoch(self, epoch: int) -> None:
        """Before a validation."""

    def before_val_step(self, epoch: int, iteration: int, data_dict: dict) -> None:
        """Before a validation step."""

    def after_val_step(self, epoch: int, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """After a validation step."""

    def after_val_epoch(self, epoch: int, summary_dict: dict[str, float]) -> None:
        """After a validation; ``summary_dict`` has the mean of each result and each metric, over the whole set."""

    def render_progress_imgs(self, data_dict: dict, output_dict: dict) -> dict[str, torch.Tensor]:
        """Return pictures by name, (3, H, W) or (1, H, W) in [0, 1], of ``progress.max_samples_val`` samples."""
        return {}
