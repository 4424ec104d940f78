"""A model's file → the model and what the file says of itself: .pt, .pt2, .onnx or .safetensors."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import common
from common.config.build import build_model
from common.config.errors import UserError, closest, one_line
from common.deploy.task import METADATA, About
from common.state.checkpoint import find_newest
from common.state.file import load_exactly, read_plain

_VERSIONS = "classes", "engine", "format"  # in a checkpoint, beside the config
WEIGHTS = "model.safetensors"  # in a folder to publish


def open_model(
    path: str | Path, device: torch.device, sections: dict[str, Any] | None = None
) -> tuple[Callable, About]:
    """Return a model, ready to predict on a device, and what its file says of itself.

    Args:
        path: A checkpoint, an experiment's folder, a file that ``export.py`` has written, or a folder to publish.
        device: The device.
        sections: Sections that replace those of the config in the file.

    Raises:
        UserError: No such file, a damaged or foreign one, or one that lacks the config or a package.
    """
    path = Path(path)
    path = path / WEIGHTS if (path / WEIGHTS).is_file() else find_file(path)
    if not path.is_file():
        match = closest(path.name, [entry.name for entry in path.parent.glob("*")])
        raise UserError(f"{path}: no such file" + (f", did you mean '{match}'?" if match else ""))
    kinds = {".pt2": _open_pt2, ".onnx": _open_onnx, ".safetensors": _open_safetensors}
    try:
        return kinds.get(path.suffix, _open_checkpoint)(path, device, sections or {})
    except UserError:
        raise
    except Exception as error:  # each library has its own dozen of types
        raise UserError(f"{path}: foreign or damaged: {one_line(error)}") from error


def find_file(path: Path) -> Path:
    """Return the newest good checkpoint of an experiment, or of its folder of checkpoints; a file is itself."""
    newest = find_newest(path) or find_newest(path / "checkpoints") if path.is_dir() else path
    if newest is None:
        raise UserError(f"--model_pt {path}: holds neither a checkpoint nor checkpoints/ nor {WEIGHTS}")
    return newest


def _open_checkpoint(path: Path, device: torch.device, sections: dict[str, Any]) -> tuple[Callable, About]:
    state = read_plain(path)
    config = {**state["config"], **sections} if isinstance(state.get("config"), dict) else sections
    if not config.get("model"):
        raise UserError(f"{path}: holds no config; give that of its run by --config FILE")
    model = build(config)
    load_exactly(model, path)
    return ready(model, device), About(config, **{key: state[key] for key in _VERSIONS if key in state})


def _open_safetensors(path: Path, device: torch.device, sections: dict[str, Any]) -> tuple[Callable, About]:
    with need("safetensors", str(path)).safe_open(path, "pt") as file:
        about = parse_about((file.metadata() or {}).get(METADATA), path, sections)
    model = build(about.config)
    need("safetensors.torch", str(path)).load_model(model, path)
    return ready(model, device), about


def _open_pt2(path: Path, device: torch.device, sections: dict[str, Any]) -> tuple[Callable, About]:
    extra = {METADATA: ""}
    logging.getLogger("torch.export").setLevel(logging.CRITICAL)  # a damaged file is told in one line
    program = torch.export.load(path, extra_files=extra)
    about = parse_about(extra[METADATA], path, sections)
    if device.type != "cpu":
        program = torch.export.passes.move_to_device_pass(program, device)
    return program.module(), about


def _open_onnx(path: Path, device: torch.device, sections: dict[str, Any]) -> tuple[Callable, About]:
    onnxruntime = need("onnxruntime", str(path))
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in [*wanted, "CPUExecutionProvider"] if name in onnxruntime.get_available_providers()]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # an error is raised, too
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    names = [node.name for node in session.get_inputs()]

    def model(*inputs: torch.Tensor) -> Any:
        values = {name: value.cpu().numpy() for name, value in zip(names, inputs, strict=True)}
        outputs = [torch.from_numpy(value).to(inputs[0].device) for value in session.run(None, values)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return model, parse_about(session.get_modelmeta().custom_metadata_map.get(METADATA), path, sections)


def build(config: dict[str, Any]) -> torch.nn.Module:
    """Return the model of a config, without looking for the weights that its training began with."""
    import_own_package()
    section = config.get("model") or {}
    if "type" not in section and all(isinstance(one, dict) for one in section.values()):
        raise UserError(f"model: several by name ({', '.join(section)}), and only a single one can be predicted with")
    return build_model({key: value for key, value in section.items() if key != "weights"})


def ready(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return a model in evaluation mode on a device, its weights without gradients."""
    return model.to(device).eval().requires_grad_(False)


def import_own_package() -> None:
    """Import the package of tasks beside ``common``, or of an installed project, so that what it registers is known."""
    root = Path(common.__file__).resolve().parents[1]
    names = [f"{init.parents[1].name}.tasks" for init in sorted(root.glob("*/tasks/__init__.py"))]
    if not (root / "pyproject.toml").is_file():  # but among all the packages that are installed there
        names = [entry.value for entry in entry_points(group="common.tasks")]
    for name in names:
        importlib.import_module(name)


def parse_about(text: str | None, path: Path, sections: dict[str, Any]) -> About:
    """Return what a file says of itself, with other sections; raise a UserError if it says nothing of the kind."""
    try:
        about = About(**json.loads(text or ""))
        return replace(about, config={**about.config, **sections})
    except (TypeError, ValueError):
        raise UserError(f"{path}: was not written by export.py: it does not say what it is") from None


def need(module: str, where: str) -> ModuleType | Any:
    """Import an optional package; raise a UserError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = str(error.name).partition(".")[0]
        package = {"multipart": "python-multipart"}.get(name, name)
        raise UserError(f"{where}: needs a package that is not installed: pip install {package}") from None
