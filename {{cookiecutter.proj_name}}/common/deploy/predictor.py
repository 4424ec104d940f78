"""A model's file → predictions of whatever its task accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

from common.config.errors import UserError, one_line
from common.config.registry import open_room
from common.deploy.model_file import import_own_package, open_model
from common.deploy.task import TASK_REGISTRY, About, Source
from common.run.strategy import choose_device, move_to

Sample = dict[str, Any]
Answer = dict[str, Any]


class InputError(UserError):
    """An input that cannot be read or predicted; the message says why, without the input's name."""


class Predictor:
    """Predicts from files, open files, texts or arrays: read, prepared and answered as in the evaluation.

    Args:
        model: What the task calls: a module in evaluation mode, or an exported model.
        about: What the model's file says of itself.
        device: Where the model is.

    Raises:
        UserError: The config names no task, an unknown one, or one whose arguments do not fit.
    """

    model: Any

    def __init__(self, model: Callable[..., Any], about: About, device: torch.device):
        self.model, self.about, self.device = model, about, device
        import_own_package()
        section = about.config.get("task")
        if not section:
            known = ", ".join(TASK_REGISTRY.names())
            raise UserError(f"task: the model's config names none; give one by --task.type: {known}")
        self.task = TASK_REGISTRY.build(section, "task", about)
        data = about.config.get("dataset") or {}
        split = next((name for name in ("eval", "val") if data.get(name)), "eval")
        where, sections = f"dataset.{split}", data.get(split) or {}
        self._transforms = _pipeline(sections, where, "transforms")
        self._batch_transforms = _pipeline(sections, where, "batch_transforms")

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str | torch.device | None = None, config: dict[str, Any] | None = None
    ) -> Predictor:
        """Return the predictor of a checkpoint, with its averaged weights if it has such, or of an exported model.

        Args:
            path: A checkpoint, an experiment's folder, a file that ``export.py`` has written, or a folder to publish.
            device: Such as ``cpu`` or ``cuda:1``. None: the best at hand.
            config: Sections that replace those in the file, such as ``{"task": {"type": "SegmentImage"}}``; with the
                section ``model`` also for a checkpoint that holds no config.

        Raises:
            UserError: The file is missing, damaged or foreign, or its model or task cannot be built.
        """
        chosen = choose_device(None) if device is None else torch.device(device)
        return cls(*open_model(path, chosen, config), chosen)

    def __call__(self, inputs: Source | list[Source], batch_size: int = 32) -> Any:
        """Return the answer for one input, or a list of answers for a list of inputs.

        Args:
            inputs: Paths (also as ``str``, unless the task accepts text), open binary files, texts, or arrays.
            batch_size: How many inputs to predict at once.

        Raises:
            UserError: An input cannot be read or predicted.
        """
        if not isinstance(inputs, list):
            return self([inputs], batch_size)[0]
        answers = []
        for start in range(0, len(inputs), batch_size):
            samples = [self.read(source) for source in inputs[start : start + batch_size]]
            for answer in self.predict(samples):
                if isinstance(answer, InputError):
                    raise answer
                answers.append(answer)
        return answers

    def read(self, source: Source) -> Sample:
        """Return an input as a sample, transformed as in the evaluation; raise an InputError if that is impossible."""
        try:
            path = isinstance(source, str) and self.task.accepts != "text"
            sample = self.task.read(Path(source) if path else source)
            return self._transforms(sample) if self._transforms else sample
        except Exception as error:  # Pillow and foreign data alone raise a dozen types
            raise InputError(_reason(error)) from error

    @torch.inference_mode()
    def predict(self, samples: list[Sample]) -> list[Answer | InputError]:
        """Return the answer for each sample, or why there is none; those of one shape form a batch."""
        answers: list[Any] = [None] * len(samples)
        for rows in _group(samples):
            try:
                found = self._predict([samples[row] for row in rows])
            except Exception as error:  # whatever a model says of an input that it was not made for
                alone = [self.predict([samples[row]])[0] for row in rows] if len(rows) > 1 else None
                reason = f"{type(self.task).__name__}: {type(error).__name__}: {one_line(error)}"
                found = alone or [InputError(reason)]
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
        return answers

    def _predict(self, samples: list[Sample]) -> list[Answer]:
        batch = self.prepare(samples)
        output = move_to(self.task.forward(self.model, batch), torch.device("cpu"))
        batch = move_to(batch, torch.device("cpu"))
        cases = zip(_cases(batch, len(samples)), _cases(output, len(samples)), strict=True)
        return [self.task.answer(*case) for case in cases]

    def batches(self, sources: Iterable[Source]) -> Iterator[dict[str, Any]]:
        """Yield the batches that inputs form, those of one shape together; raise an InputError as ``read`` does."""
        samples = [self.read(source) for source in sources]
        for rows in _group(samples):
            yield self.prepare([samples[row] for row in rows])

    def prepare(self, samples: list[Sample]) -> dict[str, Any]:
        """Return samples of one shape as a batch on the device, transformed as in the evaluation."""
        batch = move_to(default_collate(samples), self.device)
        return self._batch_transforms.on_batch(batch) if self._batch_transforms else batch


def _group(samples: Iterable[Sample]) -> list[list[int]]:
    """Return the numbers of those samples that form a batch together: whose tensors have the same shapes."""
    groups: dict[Any, list[int]] = {}
    for number, sample in enumerate(samples):
        groups.setdefault(shapes_of(sample), []).append(number)
    return list(groups.values())


def shapes_of(sample: Sample) -> tuple:
    """Return the names, shapes and dtypes of a sample's tensors."""
    return tuple((name, value.shape, value.dtype) for name, value in sample.items() if torch.is_tensor(value))


def _pipeline(section: dict[str, Any], where: str, name: str) -> Any:
    where = f"{where}.{name}"
    return open_room("vision.pipeline", where).Pipeline(section[name], where) if section.get(name) else None


def _cases(data: Any, count: int) -> Sequence[Any]:
    """Return the samples of a batch: of each tensor and list, what is at one place of its first dimension."""
    if isinstance(data, dict):
        columns = [_cases(value, count) for value in data.values()]
        return [dict(zip(data, row, strict=True)) for row in zip(*columns, strict=True)] if data else [{}] * count
    if torch.is_tensor(data) and data.ndim > 0:
        return data.unbind()
    return data if isinstance(data, list) else [data] * count


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
        return str(error.strerror)
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture that can be read"
    if type(error).__name__.startswith("DecompressionBomb"):
        return "a picture of too many pixels"
    return one_line(error)
