"""Checkpoints: a dict of Stateful parts ↔ files that are never half-written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Protocol

import torch

from common.distributed import barrier, master_only
from common.errors import UserError, nearest

NUMBERED = re.compile(r"(epoch|iter)_(\d+)\.pt")


class Stateful(Protocol):
    """Anything a checkpoint can hold: its state goes out as plain data and tensors, and comes back."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take the state over."""


class Checkpointer:
    """Saves and loads the parts of a run. It knows none of them.

    A file is a plain ``torch.save`` dict with one key a part (``model``, ``optimizer``, ...) that anyone can open with
    ``torch.load(..., weights_only=True)``.

    Args:
        folder: Where the files go: ``latest.pt``, ``best_<metric>.pt``, ``epoch_NNN.pt``, ``iter_NNN.pt``,
            ``final.pt``.
        parts: The parts by name.
        keep_last: How many numbered files stay. None: all.
    """

    def __init__(self, folder: Path, parts: dict[str, Stateful], keep_last: int | None = None):
        self.folder = folder
        self._parts = parts
        self._keep_last = keep_last

    def save(self, *names: str) -> None:
        """Write the present state under each of the names (without ``.pt``). Collective: every rank calls it."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        self._write(state, names)
        barrier()

    def load(self, path: Path) -> None:
        """Bring every part back to the state in a file.

        Raises:
            UserError: The file is no checkpoint, lacks a part, or a part does not fit.
        """
        state = read_checkpoint(path)
        missing = sorted(self._parts.keys() - state.keys())
        if missing:
            raise UserError(
                f"{path}: has no '{missing[0]}' to go on with; to start from its weights, --progress.start_epoch 0"
            )
        for name, part in self._parts.items():
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: '{name}' does not fit this run: {one_line(error)}") from None

    @master_only
    def _write(self, state: dict[str, Any], names: tuple[str, ...]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            write_durably(state, self.folder / f"{name}.pt")
        self._prune()

    def _prune(self) -> None:
        """Delete the oldest numbered files beyond ``keep_last``."""
        if self._keep_last is None:
            return
        numbered = [path for path in self.folder.glob("*.pt") if NUMBERED.fullmatch(path.name)]
        numbered.sort(key=lambda path: path.stat().st_mtime_ns)
        for path in numbered[: -self._keep_last]:
            path.unlink()


def write_durably(state: dict[str, Any], path: Path) -> None:
    """Write a ``torch.save`` file so that ``path`` holds all of it or what was there before, whatever happens."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened, nor need it be
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the parts of a checkpoint file, on the CPU.

    Raises:
        UserError: No such file, or it is no checkpoint. A file that asks for code is none: only plain data is loaded.
    """
    if not path.is_file():
        beside = sorted(file.name for file in path.parent.glob("*.pt")) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such checkpoint, {nearest(path.name, beside)}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds, which all mean this
        raise UserError(f"{path}: no checkpoint: it is foreign, damaged, or asks for code to be run") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path}: expected a dict of parts, found {type(state).__name__}")
    return state


def find_checkpoint(resume: str) -> Path:
    """Return the file that ``resume`` means: itself, or the latest one in an experiment's or a checkpoints' folder.

    Raises:
        UserError: Nothing there.
    """
    path = Path(resume)
    if not path.is_dir():
        return path
    for candidate in (path / "latest.pt", path / "checkpoints" / "latest.pt"):
        if candidate.is_file():
            return candidate
    raise UserError(f"--resume {resume}: found no latest.pt in it or in its checkpoints/")


def read_weights(path: Path, name: str = "model") -> dict[str, torch.Tensor]:
    """Return a model's weights from a checkpoint, the averaged ones if it holds such, or from a bare state dict.

    Args:
        path: A checkpoint of ours, or a file with one model's ``state_dict``.
        name: The model's part.

    Raises:
        UserError: No checkpoint, or one without that model.
    """
    state = read_checkpoint(path)
    average = name.replace("model", "ema", 1)
    if average in state:
        return {**state[name], **state[average]["weights"]}
    if name in state:
        return state[name]
    if state and all(isinstance(value, torch.Tensor) for value in state.values()):
        return state
    raise UserError(f"{path}: holds no '{name}', {nearest(name, state)}")


def load_matching(model: torch.nn.Module, weights: dict[str, torch.Tensor], where: str) -> list[str]:
    """Load the weights whose names and shapes fit, and report the others.

    Args:
        model: The bare model.
        weights: A state dict.
        where: The file, for messages.

    Returns:
        One line for each key that was not loaded, with the reason.

    Raises:
        UserError: No key fits.
    """
    own = model.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UserError(f"{where}: none of its {len(weights)} weights fits the model {type(model).__name__}")
    model.load_state_dict(fitting, strict=False)
    report = [f"{key}: not in the file" for key in own if key not in weights]
    for key, value in weights.items():
        if key not in own:
            report.append(f"{key}: not in the model")
        elif key not in fitting:
            report.append(f"{key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model")
    return report


def one_line(error: Exception, limit: int = 160) -> str:
    """Return an exception's message on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + "…"
