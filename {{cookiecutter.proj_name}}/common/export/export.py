"""A model → a file for other programs, which is read back and compared before it counts."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from common.config.build import build_loader
from common.config.errors import RunError, UserError, one_line
from common.config.schema import Config, DatasetConfig, DirConfig
from common.data.loader import on_device
from common.run.strategy import map_nested

TOLERANCE = 1e-4
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": (), "safetensors": ("safetensors",)}
PACKAGES["hub"] = PACKAGES["safetensors"]
Inputs = tuple[torch.Tensor, ...]
Predictor = Any  # that of the room deploy


def export(
    predictor: Predictor, format: str, path: Path, given: list[Path] | None = None, data_dir: str | None = None
) -> float:
    """Write a model to a file, read it back, and return the largest difference between its outputs and the model's.

    Args:
        predictor: The model and its task, from a checkpoint.
        format: ``onnx``, ``pt2`` or ``safetensors``, whose ``PACKAGES`` are installed.
        path: The file, which replaces an existing one only if its model does the same.
        given: Inputs to compare on. None: up to 256 samples of the evaluation set.
        data_dir: Root of all data sets. None: that of the run.

    Raises:
        UserError: An input cannot be read, or the evaluation set is missing.
        RunError: The model cannot be exported, or the file's outputs differ by more than 1e-4; there is no file then.
    """
    if not isinstance(predictor.model, torch.nn.Module) or isinstance(predictor.model, torch.fx.GraphModule):
        raise UserError("--model_pt: expected a checkpoint, found an exported model")
    batches = predictor.batches(given) if given else _evaluation_set(predictor, data_dir)
    calls = [_call_of(predictor, batch) for batch in batches]
    calls += [tuple(value[:count] for value in calls[0]) for count in (1, 2, 7)]
    beside = path.with_name(f".{path.stem}.tmp.{format}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(predictor, format, beside, calls[0])
        difference = compare(predictor.model, predictor.from_checkpoint(beside, predictor.device).model, calls)
        if difference > TOLERANCE:
            raise RunError(f"{path}: its outputs differ by {difference:.1e}, more than {TOLERANCE:.0e}; not written")
        beside.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return difference


def _write(predictor: Predictor, format: str, path: Path, inputs: Inputs) -> None:
    about = predictor.about.to_metadata()
    if format == "safetensors":
        from safetensors.torch import save_model

        save_model(predictor.model, str(path), about)
        return
    program = trace(predictor.model, inputs)
    if format == "pt2":
        torch.export.save(program, path, extra_files=about)
        return
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported: Any = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True)
    exported.model.metadata_props.update(about)
    exported.save(path)


def trace(model: torch.nn.Module, inputs: Inputs) -> ExportedProgram:
    """Return a model's graph, for any number of samples, and for any size that the model takes.

    Sizes are all dimensions but the first, the samples, and the second, an image's channels, unless they are tokens.

    Raises:
        RunError: The model's code cannot be traced.
    """
    twice = tuple(torch.cat([value, value])[:2] for value in inputs)  # a batch of 1 would be taken for a constant
    sizes = [range(2 if value.is_floating_point() else 1, value.ndim) for value in twice]
    shapes = [{0: Dim.DYNAMIC, **dict.fromkeys(dims, Dim.AUTO)} for dims in sizes]
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # a failure prints a page
            warnings.simplefilter("ignore")
            return torch.export.export(model, twice, dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises whatever the model's code runs into
        name = type(model).__name__
        raise RunError(f"{name} cannot be exported: {type(error).__name__}: {one_line(error, 300)}") from error


@torch.inference_mode()
def compare(model: Callable[..., Any], other: Callable[..., Any], calls: list[Inputs]) -> float:
    """Return the largest difference between the outputs of two models."""
    largest = 0.0
    for inputs in calls:
        found = [_tensors(each(*inputs)) for each in (model, other)]
        for one, two in zip(*found, strict=True):
            difference = (one.double() - two.double()).abs().max().item()
            largest = max(largest, difference if difference == difference else float("inf"))
    return largest


def _tensors(output: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_nested(output, lambda _, value: (found.append(value) if torch.is_tensor(value) else None, value)[1])
    return found


@torch.inference_mode()
def _call_of(predictor: Predictor, batch: dict[str, Any]) -> Inputs:
    """Return what the task calls the model with first."""
    calls: list[Inputs] = []

    def record(*inputs: torch.Tensor) -> None:
        calls.append(tuple(value.clone() for value in inputs))
        raise StopIteration

    with suppress(StopIteration):
        predictor.task.forward(record, batch)
    if not calls:
        raise UserError(f"task: {type(predictor.task).__name__}.forward does not call the model")
    return calls[0]


def _evaluation_set(predictor: Predictor, data_dir: str | None) -> Iterator[dict[str, Any]]:
    """Yield batches of the evaluation set, transformed, up to 256 samples."""
    run = predictor.about.config
    data = run.get("dataset") or {}
    config = Config(
        dataset=DatasetConfig(eval=data.get("eval") or data.get("val")),
        dir=DirConfig(data_dir=data_dir or (run.get("dir") or {}).get("data_dir", "data")),
    )
    try:
        loader = build_loader(config, "eval", max_samples=256)
    except UserError as error:
        hint = "the exported model is compared on this data; --input names other files"
        raise UserError(f"{one_line(error, 1000)}; {hint}") from None
    transform = getattr(loader, "transform_batch", None)
    for batch in on_device(loader, predictor.device):
        yield transform(batch) if transform else batch
