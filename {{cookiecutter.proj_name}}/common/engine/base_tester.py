"""The testing loop that both testers share."""

from __future__ import annotations

import csv
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from common.config.errors import UserError
from common.config.schema import Config
from common.data.batches import find_sizes_at, find_transform, on_device
from common.engine.evaluating import evaluating
from common.engine.hooks import Metrics
from common.log.console import add_log
from common.log.meters import Meters
from common.run.device import in_precision
from common.run.distributed import gather_data, get_rank
from common.run.launch import Session
from common.sharding.tensors import is_spread
from common.state.weights import read_weights


class BaseTester(ABC):
    """Runs a model over a test set, case by case.

    Register a model and a loader in your ``__init__``, implement ``test_step`` and ``eval_step``, and call ``run``.

    Args:
        config: The whole config.
        session: Device and folder, from ``launch``.
    """

    def __init__(self, config: Config, session: Session):
        self.config, self.session, self.device = config, session, session.device
        self.metric: Metrics | None = None
        self.between_steps: Callable[[int], None] = lambda iteration: None
        self.folder = session.folder
        self.rows: list[dict[str, Any]] = []

    def register_model(self, model: nn.Module) -> None:
        """Register the model and move it to the device; one that a trainer has sharded is there already."""
        self.model = model if is_spread(model.parameters()) else model.to(self.device)

    def register_loader(self, test_loader: DataLoader) -> None:
        """Register the loader of the test set."""
        self.test_loader = test_loader

    def register_metric(self, metric: Metrics) -> None:
        """Register metrics over the whole test set, updated after each ``test_step``."""
        self.metric = metric

    def load_weights(self, path: Path) -> None:
        """Load the model's weights from a checkpoint: the averaged ones, if it holds such.

        Raises:
            UserError: No checkpoint, or its weights do not fit the model.
        """
        weights, model = read_weights(path), self.model
        expected, found = shapes_of(model.state_dict()), shapes_of(weights)
        for key in {**expected, **found}:
            if expected.get(key) != found.get(key):
                shapes = f"expected {expected.get(key, 'no such key')}, found {found.get(key, 'no such key')}"
                raise UserError(f"{path}: does not fit {type(model).__name__}: '{key}': {shapes}")
        model.load_state_dict(weights)

    def before_test_epoch(self) -> None:
        """Before the test."""

    def before_test_step(self, iteration: int, data_dict: dict) -> None:
        """Before a test step."""

    @abstractmethod
    def test_step(self, iteration: int, data_dict: dict) -> dict:
        """Return a dict of the model's output for the batch."""

    @abstractmethod
    def eval_step(self, iteration: int, data_dict: dict, output_dict: dict) -> dict:
        """Return a dict of results for one case, each a single value."""

    def after_test_step(self, iteration: int, data_dict: dict, output_dict: dict, result_dict: dict) -> None:
        """After the evaluation of one case, whose line in ``samples.csv`` is ``self.rows[-1]``: add to it."""

    def after_test_epoch(self, summary_dict: dict[str, float]) -> None:
        """After the test; ``summary_dict`` has the mean of each result and each metric, over the whole set."""

    def run(self, folder: Path | None = None) -> dict[str, float]:
        """Test the model and write what is found.

        These are ``summary.json`` and ``summary.csv`` with each mean and metric, ``samples.csv`` with a line a case, a
        picture of each metric that has one, and what the hooks write.

        Args:
            folder: Where to write; the session's folder by default. Hooks find it as ``self.folder``.

        Returns:
            The mean of each result over all cases, on all ranks together, and the metrics.
        """
        self.folder = folder or self.session.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        test_step = in_precision(self.test_step, self.device, self.config.trainer.precision)
        meters, sizes_at, transform = Meters(), find_sizes_at(self.test_loader), find_transform(self.test_loader)
        self.rows, numbers = [], itertools.count()
        places_at = getattr(getattr(self.test_loader, "batch_sampler", None), "places_at", lambda batch: numbers)
        if self.metric:
            self.metric.reset()
        with evaluating([self.model]):
            self.before_test_epoch()
            for iteration, data_dict in enumerate(on_device(self.test_loader, self.device)):
                self.between_steps(iteration)
                data_dict = transform(data_dict) if transform else data_dict
                if sizes_at and not sizes_at(iteration)[0]:  # a stand-in, for what all ranks do together
                    test_step(iteration, data_dict)
                    continue
                self.before_test_step(iteration, data_dict)
                output_dict = test_step(iteration, data_dict)
                if self.metric:
                    self.metric.update(output_dict, data_dict)
                cases = zip(self._cases(iteration, data_dict, output_dict), places_at(iteration), strict=False)
                for (one_data, one_output), number in cases:
                    result_dict = self.eval_step(iteration, one_data, one_output)
                    meters.update(result_dict)
                    self.rows.append({"sample": number, **result_dict})
                    self.after_test_step(iteration, one_data, one_output, result_dict)
            summary_dict = meters.summary() | (self.metric.compute() if self.metric else {})
            self.after_test_epoch(summary_dict)
        self._write(summary_dict)
        return summary_dict

    @abstractmethod
    def _cases(self, iteration: int, data_dict: dict, output_dict: dict) -> Iterator[tuple[dict, dict]]:
        """Return the single cases of a batch, each with its data and its output."""

    def _write(self, summary_dict: dict[str, float]) -> None:
        find_path = getattr(self.test_loader.dataset, "path", lambda number: None)
        plain = [{key: as_number(value) for key, value in row.items()} for row in self.rows]
        rows = sorted((row for part in gather_data(plain) for row in part), key=lambda row: row["sample"])
        if get_rank() != 0:
            return
        for name, value in summary_dict.items():
            add_log(f"eval | {name} {value:.4f}")
        (self.folder / "summary.json").write_text(json.dumps(summary_dict, indent=2) + "\n", encoding="utf-8")
        write_csv(self.folder / "summary.csv", [{"name": name, "value": value} for name, value in summary_dict.items()])
        paths = [find_path(row["sample"]) for row in rows]
        files = [{"file": str(path)} if path else {} for path in paths]
        write_csv(self.folder / "samples.csv", [row | file for row, file in zip(rows, files, strict=True)])
        for name, figure in (self.metric.draw() if self.metric else {}).items():
            figure.savefig(self.folder / f"{name}.png", dpi=150)
        add_log(f"eval | written to {self.folder}")


def as_number(value: Any) -> Any:
    """Return a tensor with one value as a plain number; anything else as it is."""
    return value.item() if isinstance(value, torch.Tensor) else value


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a table: a line for each row, and above them the names of all that a row has."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def shapes_of(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight."""
    return {key: tuple(value.shape) for key, value in weights.items()}
