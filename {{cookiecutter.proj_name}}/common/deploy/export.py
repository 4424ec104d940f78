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
from common.deploy.model_file import KEY, about_text, need, open_model
from common.deploy.predict import find_inputs
from common.deploy.predictor import Predictor, group
from common.run.strategy import map_nested

TOLERANCE = 1e-4
FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
Inputs = tuple[torch.Tensor, ...]


def export(
    predictor: Predictor, format: str, path: Path, given: str | None = None, data_dir: str | None = None
) -> float:
    """Write a model to a file, read it back, and return the largest difference between its outputs and the model's.

    Args:
        predictor: The model and its task, from a checkpoint.
        format: ``onnx``, ``pt2`` or ``safetensors``.
        path: The file, which replaces an existing one only if its model does the same.
        given: Inputs to compare on, as for ``predict.py``. None: up to 256 samples of the evaluation set.
        data_dir: Root of all data sets. None: that of the run.

    Raises:
        UserError: The inputs or the evaluation set are missing, or a package is.
        RunError: The model cannot be exported, or the file's outputs differ by more than 1e-4; there is no file then.
    """
    if not isinstance(predictor.model, torch.nn.Module) or isinstance(predictor.model, torch.fx.GraphModule):
        raise UserError("--model_pt: expected a checkpoint, found an exported model")
    batches = list(_batches_of(predictor, given) if given else _evaluation_set(predictor, data_dir))
    calls = [_call_of(predictor, batch) for batch in batches]
    calls += [tuple(value[:count] for value in calls[0]) for count in (1, 2, 7)]
    beside = path.with_name(f".{path.stem}.tmp{FORMATS[format]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(predictor, format, beside, calls[0])
        difference = compare(predictor.model, open_model(beside, predictor.device)[0], calls)
        if difference > TOLERANCE:
            raise RunError(f"{path}: its outputs differ by {difference:.1e}, more than {TOLERANCE:.0e}; not written")
        beside.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return difference


def _write(predictor: Predictor, format: str, path: Path, inputs: Inputs) -> None:
    about = about_text(predictor.about)
    if format == "safetensors":
        tensors = {name: value.contiguous() for name, value in predictor.model.state_dict().items()}
        path.write_bytes(need("safetensors.torch", "--format safetensors").save(_unshared(tensors), {KEY: about}))
        return
    if format == "onnx":
        for module in ("onnx", "onnxscript", "onnxruntime"):
            need(module, "--format onnx")
    program = trace(predictor.model, inputs)
    if format == "pt2":
        torch.export.save(program, path, extra_files={KEY: about})
        return
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported: Any = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True)
    exported.model.metadata_props[KEY] = about
    exported.save(path)


def _unshared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors, each with memory of its own, as safetensors asks for."""
    seen: set[int] = set()
    own = {}
    for name, value in tensors.items():
        own[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return own


def trace(model: torch.nn.Module, inputs: Inputs) -> ExportedProgram:
    """Return a model's graph, for any number of samples, and for any size that it takes.

    The sizes are all dimensions but the first, the samples, and an image's channels. They are dynamic if the model
    takes an input in which each of them is enlarged, or else reduced, by a different number.
    """
    twice = tuple(torch.cat([value, value])[:2] for value in inputs)  # a batch of 1 would be taken for a constant
    first = twice[0]
    sizes = {1} if first.ndim == 2 and not first.is_floating_point() else set(range(2, first.ndim))
    others = [_resized(first, sizes, sign) for sign in (1, -1)] if len(twice) == 1 else []
    with suppress(Exception):  # of code that does not work with sizes that are not known yet
        if any(_takes(model, other) for other in others):
            return _trace(model, twice, {0} | sizes)
    try:
        return _trace(model, twice, {0})
    except Exception as error:  # torch.export raises whatever the model's code runs into
        name = type(model).__name__
        raise RunError(f"{name} cannot be exported: {type(error).__name__}: {one_line(error, 300)}") from error


def _trace(model: torch.nn.Module, inputs: Inputs, dims: set[int]) -> ExportedProgram:
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # a failure prints a page
        warnings.simplefilter("ignore")
        return torch.export.export(model, inputs, dynamic_shapes=[dict.fromkeys(dims, Dim.DYNAMIC) for _ in inputs])


def _resized(value: torch.Tensor, dims: set[int], sign: int) -> torch.Tensor:
    """Return zeros like a value, each of the dimensions larger or smaller by a number of its own."""
    shape = [max(1, size + sign * (3 + 2 * dim)) if dim in dims else size for dim, size in enumerate(value.shape)]
    return value.new_zeros(shape)


def _takes(model: torch.nn.Module, value: torch.Tensor) -> bool:
    try:
        with torch.inference_mode():
            model(value)
    except Exception:
        return False
    return True


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
    """Return what the task calls the model with."""

    class _CalledError(Exception):
        pass

    def record(*inputs: torch.Tensor) -> None:
        raise _CalledError(inputs)

    try:
        predictor.task.forward(record, batch)
    except _CalledError as call:
        return tuple(value.clone() for value in call.args[0])
    raise UserError(f"task: {type(predictor.task).__name__}.forward does not call the model")


def _batches_of(predictor: Predictor, given: str) -> Iterator[dict[str, Any]]:
    samples = [predictor.read(path) for path in find_inputs(given)[1]]
    for rows in group(samples):
        yield predictor.prepare([samples[row] for row in rows])


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
