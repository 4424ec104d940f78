"""Testers: a model over a test set, case by case."""

from __future__ import annotations

import itertools
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from common.config.errors import UserError
from common.config.schema import Config
from common.data.loader import batch_size_of
from common.engine.agenda import StopControl
from common.engine.base_trainer import StepResult, evaluate, evaluating
from common.log.console import add_log
from common.log.curves import write_tables
from common.log.metric import MetricSet
from common.run.distributed import gather_data, get_rank
from common.run.launch import Session
from common.run.strategy import in_precision
from common.state.file import load_exactly


class BaseTester(metaclass=ABCMeta):
    """Runs a model over a test set, case by case.

    Register a model and a loader in your ``__init__``, implement ``test_step`` and ``eval_step``, and call ``run``. The
    order of events: ``before_test_epoch``; for each batch ``before_test_step``, ``test_step``, (``split_batch_dict``,)
    and for each case ``eval_step`` and ``after_test_step``; then ``after_test_epoch``.
    """

    model: nn.Module
    test_loader: DataLoader
    stop: StopControl | None = None  # a trainer's, which may end a run within the evaluation

    def __init__(self, config: Config, session: Session):
        self.config, self.session, self.device = config, session, session.device
        self.metric = MetricSet({})
        self.guard: Callable[[], AbstractContextManager] = nullcontext  # around what writes files
        self.folder = session.folder
        self.rows: list[dict[str, Any]] = []

    def register_model(self, model: nn.Module) -> None:
        """Register the model and move it to the device, unless a trainer has sharded it."""
        self.model = self.session.strategy.move(model)

    def register_loader(self, test_loader: DataLoader) -> None:
        """Register the loader of the test set."""
        self.test_loader = test_loader

    def register_metric(self, metric: MetricSet) -> None:
        """Register metrics over the whole test set, updated after each ``test_step``."""
        self.metric = metric

    def load_weights(self, path: Path) -> None:
        """Load a checkpoint's weights, the averaged ones if it has them; a UserError if they do not fit the model."""
        load_exactly(self.model, path)

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
        """Test the model, write what is found to a folder, and return the mean of each result and each metric.

        The folder, by default the session's, is ``self.folder`` for the hooks. It gets ``summary.json`` and
        ``summary.csv`` with each mean and metric, ``samples.csv`` with a line a case, and the metrics' figures.
        """
        self.folder, self.rows = folder or self.session.folder, []
        with self.guard():
            self.folder.mkdir(parents=True, exist_ok=True)
        test_step = in_precision(self.test_step, self.device, self.config.trainer.precision)
        counted = itertools.count()
        numbers_at = getattr(getattr(self.test_loader, "batch_sampler", None), "places_at", lambda iteration: counted)

        def step(iteration: int, data_dict: dict, size: int) -> StepResult:
            if not size:
                return test_step(iteration, data_dict), ()
            self.before_test_step(iteration, data_dict)
            output_dict = test_step(iteration, data_dict)
            return output_dict, evaluate_cases(iteration, data_dict, output_dict)

        def evaluate_cases(iteration: int, data_dict: dict, output_dict: dict) -> Iterator[tuple[dict, int]]:
            cases = zip(*self.split_batch_dict(iteration, data_dict, output_dict), strict=True)
            for (data, output), number in zip(cases, numbers_at(iteration), strict=False):
                result_dict = self.eval_step(iteration, data, output)
                self.rows.append({"sample": number, **result_dict})
                with self.guard():
                    self.after_test_step(iteration, data, output, result_dict)
                yield result_dict, 1

        with evaluating([self.model]):
            self.before_test_epoch()
            summary_dict = evaluate(self.test_loader, self.device, step, self.metric, self.stop)
            with self.guard():
                self.after_test_epoch(summary_dict)
        self._write(summary_dict)
        return summary_dict

    @abstractmethod
    def split_batch_dict(self, iteration: int, data_dict: dict, output_dict: dict) -> tuple[list[dict], list[dict]]:
        """Return the data dicts and the output dicts of the batch's single cases."""

    def _write(self, summary_dict: dict[str, float]) -> None:
        """Gather the rows of all ranks, and write the tables and figures on rank 0."""
        plain = [
            {key: value.item() if torch.is_tensor(value) else value for key, value in row.items()} for row in self.rows
        ]
        rows = sorted((row for part in gather_data(plain) for row in part), key=lambda row: row["sample"])
        if get_rank() == 0:
            with self.guard():
                find_path = getattr(self.test_loader.dataset, "path", lambda number: None)
                write_tables(self.folder, summary_dict, rows, find_path)
                for name, figure in self.metric.draw().items():
                    figure.savefig(self.folder / f"{name}.png", dpi=150)
                add_log(f"eval | written to {self.folder}")


class SingleTester(BaseTester):
    """For loaders with a batch size of 1: the batch is the case."""

    def register_loader(self, test_loader: DataLoader) -> None:
        """Register the loader of the test set; a UserError unless its batch size is 1."""
        if (size := batch_size_of(test_loader)) != 1:
            name = type(self).__name__
            raise UserError(f"dataset.eval.batch_size: {name} takes single samples, expected 1, found {size}")
        super().register_loader(test_loader)

    def split_batch_dict(self, iteration: int, data_dict: dict, output_dict: dict) -> tuple[list[dict], list[dict]]:
        """Return the batch as its only case."""
        return [data_dict], [output_dict]


class BatchTester(BaseTester):
    """For any batch size: ``test_step`` sees the batch, ``eval_step`` and ``after_test_step`` see each of its cases."""

    def split_batch_dict(self, iteration: int, data_dict: dict, output_dict: dict) -> tuple[list[dict], list[dict]]:
        """Return the data dicts and the output dicts of the batch's single cases.

        The batch is as long as the first tensor in ``data_dict``. Tensors and lists of that length are taken apart, at
        any depth of dicts; everything else goes to each case whole. Override it where a batch looks different.
        """
        size = next(len(value) for value in data_dict.values() if isinstance(value, torch.Tensor))
        return [_case(data_dict, i, size) for i in range(size)], [_case(output_dict, i, size) for i in range(size)]


def _case(value: Any, index: int, size: int) -> Any:
    if isinstance(value, dict):
        return {key: _case(item, index, size) for key, item in value.items()}
    sized = isinstance(value, list) or (isinstance(value, torch.Tensor) and value.ndim > 0)
    return value[index] if sized and len(value) == size else value
