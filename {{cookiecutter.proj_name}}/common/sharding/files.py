"""The sharded tensors of a checkpoint, in a folder beside its file, written by all ranks at once in the background.

``torch.distributed.checkpoint`` writes and reads them, each rank its own shards, for any number of ranks. The file
holds everything else, the folder's name, and the SHA-256 of each file in the folder.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor

from common.run.distributed import broadcast
from common.run.strategy import map_nested
from common.sharding.reader import ShardReader
from common.state.file import SHARDS, flush_folder, is_sharded

_MARK = "stored"


@dataclass(frozen=True)
class Stored:
    """A tensor that has not been read from its folder yet."""

    folder: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class ShardFolderWriter:
    """Writes the sharded tensors of one state after another, each to a new folder. Every rank makes and calls one."""

    def __init__(self):
        on_gpu = torch.cuda.is_available()
        self._stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))  # reuses its memory
        self._group = dist.new_group(backend="gloo")  # its own, since it is used while training uses the default one

    def write(self, state: Any, folder: Path) -> tuple[Any, WrittenShards | None]:
        """Start writing the sharded tensors of a state to a new folder. Returns once they are copied.

        Returns:
            The state without them, and the write in progress; None if nothing is sharded.
        """
        tensors: dict[str, torch.Tensor] = {}

        def take_out(path: tuple, value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            key = "/".join(("", *map(str, path)))  # torch.distributed.checkpoint takes flat names
            tensors[key] = value.detach()
            return {_MARK: key, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}

        state = map_nested(state, take_out)
        if not tensors:
            return state, None
        folder = folder / broadcast(f"{uuid.uuid4().hex[:12]}.{SHARDS}")
        keys: dict[str, Any] = {"checkpoint_id": folder, "process_group": self._group, "async_stager": self._stager}
        done: Any = dcp.async_save(tensors, **keys)
        return state, WrittenShards(folder, done)


@dataclass(frozen=True)
class WrittenShards:
    """A folder that all ranks are writing to."""

    folder: Path
    done: Future

    def wait(self) -> None:
        """Wait until all ranks have written. Raise an OSError if one could not."""
        try:
            self.done.result()
        except (Exception, CheckpointException) as error:
            raise OSError(_cause(error)) from error

    def seal(self) -> dict[str, Any]:
        """Wait, then return the folder's name and the digest of each file in it, for the checkpoint's file."""
        self.wait()
        flush_folder(self.folder)
        files = {path.name: _digest(path) for path in sorted(self.folder.iterdir())}
        return {"folder": self.folder.name, "files": files}


def _cause(error: BaseException) -> str:
    """Return the first error of all ranks, which torch collects in a BaseException."""
    failures = getattr(error, "failures", {})
    return str(next(iter(failures.values()))[0] if failures else error)


def find_shard_fault(folder: Path, sealed: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the folder that a checkpoint's file describes, or None."""
    for name, digest in sealed["files"].items():
        path = folder / Path(sealed["folder"]).name / Path(name).name
        if not path.is_file():
            return f"{path} is missing"
        if _digest(path) != digest:
            return f"{path} is damaged: its bytes do not have the digest they were written with"
    return None


def drop_unused(folder: Path) -> None:
    """Delete the folders of shards that belong to no checkpoint in a folder."""
    try:
        used = {_shard_folder(path) for path in folder.glob("*.pt")}
    except Exception:  # a file that cannot be read now may be readable later
        return
    for shards in folder.glob(f"*.{SHARDS}"):
        if shards.name not in used:
            shutil.rmtree(shards)


def _shard_folder(path: Path) -> str | None:
    """Return the name of the folder of shards that belongs to a checkpoint's file, if any."""
    if not is_sharded(path):
        return None
    return torch.load(path, map_location="cpu", weights_only=True)[SHARDS]["folder"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_shards(state: Any, folder: Path, whole: bool) -> Any:
    """Return the state of a checkpoint's file with its sharded tensors, whole on the CPU or each as ``Stored``."""
    targets: dict[Stored, torch.Tensor] = {}

    def find(_path: tuple, value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != {_MARK, "shape", "dtype"}:
            return value
        stored = Stored(folder, value[_MARK], tuple(value["shape"]), getattr(torch, value["dtype"]))
        return targets.setdefault(stored, torch.empty(stored.shape, dtype=stored.dtype)) if whole else stored

    state = map_nested(state, find)
    read_stored(targets)
    return state


def read_stored(targets: Mapping[Stored, torch.Tensor]) -> None:
    """Fill tensors, whole or sharded in any way, from their folders; each rank reads what it holds.

    Raise an OSError if a folder does not hold them, or asks for code to be run.
    """
    for folder in {stored.folder for stored in targets}:
        wanted = {stored.key: tensor for stored, tensor in targets.items() if stored.folder == folder}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no_dist is on purpose: each process reads on its own
            try:
                dcp.load(wanted, storage_reader=ShardReader(folder), no_dist=True)
            except CheckpointException as error:
                raise OSError(f"{folder}: {_cause(error)}") from error
