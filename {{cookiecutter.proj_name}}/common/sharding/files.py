"""The spread tensors of a checkpoint, in a folder beside its file: written by all ranks at once, in the background.

``torch.distributed.checkpoint`` writes and reads them, each rank its own parts, for any number of ranks. It is loaded
where it is needed: most runs need not wait for it. The file holds everything else, the folder's name, and the SHA-256
of each file in it.
"""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from common.run.distributed import broadcast
from common.state.host_copy import map_nested

SHARDS = "shards"
_MARK = "stored"


@dataclass(frozen=True)
class Stored:
    """A tensor that is still in a folder."""

    folder: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class ShardWriter:
    """Writes the spread tensors of one state after another. Every rank makes one, and calls it at the same time."""

    def __init__(self):
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        on_gpu = torch.cuda.is_available()
        self._stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))  # keeps its memory
        self._group = dist.new_group(backend="gloo")  # of its own, for it is used beside the training's

    def write(self, state: Any, folder: Path) -> tuple[Any, WrittenShards | None]:
        """Begin to write the spread tensors of a state into a new folder; returns when they are copied.

        Returns:
            The state without them, and what is being written, if anything is spread.
        """
        import torch.distributed.checkpoint as dcp

        tensors: dict[str, DTensor] = {}

        def take_out(path: tuple, value: Any) -> Any:
            if not isinstance(value, DTensor):
                return value
            key = "/".join(("", *map(str, path)))  # as torch.distributed.checkpoint wants it: a text
            tensors[key] = value.detach()
            return {_MARK: key, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}

        state = map_nested(state, take_out)
        if not tensors:
            return state, None
        folder = folder / broadcast(f"{uuid.uuid4().hex[:12]}.{SHARDS}")
        keys = {"checkpoint_id": folder, "process_group": self._group, "async_stager": self._stager}
        return state, WrittenShards(folder, dcp.async_save(tensors, **keys))


@dataclass(frozen=True)
class WrittenShards:
    """A folder into which all ranks are writing."""

    folder: Path
    done: Future

    def wait(self) -> None:
        """Wait until all ranks have written.

        Raises:
            OSError: One of them could not.
        """
        from torch.distributed.checkpoint.api import CheckpointException

        try:
            self.done.result()
        except (Exception, CheckpointException) as error:
            raise OSError(_cause(error)) from error

    def seal(self) -> dict[str, Any]:
        """Return what a checkpoint's file says of the folder: its name, and the digest of each file."""
        return {
            "folder": self.folder.name,
            "files": {path.name: _digest(path) for path in sorted(self.folder.iterdir())},
        }


def _cause(error: BaseException) -> str:
    """Return the first of what happened on all ranks, which torch gathers in a BaseException of its own."""
    failures = getattr(error, "failures", {})
    return str(next(iter(failures.values()))[0] if failures else error)


def find_shard_fault(folder: Path, sealed: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a folder of which a checkpoint's file says this, or None."""
    for name, digest in sealed["files"].items():
        path = folder / Path(sealed["folder"]).name / Path(name).name
        if not path.is_file():
            return f"{path} is missing"
        if _digest(path) != digest:
            return f"{path} is damaged: its bytes do not have the digest they were written with"
    return None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def mark_stored(state: Any, folder: Path) -> Any:
    """Return the state in a checkpoint's file with a ``Stored`` for each tensor that is in the folder."""

    def mark(_path: tuple, value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != {_MARK, "shape", "dtype"}:
            return value
        return Stored(folder, value[_MARK], tuple(value["shape"]), getattr(torch, value["dtype"]))

    return map_nested(state, mark)


def read_stored(targets: Mapping[Stored, torch.Tensor]) -> None:
    """Fill tensors, whole or spread in whatever way, from the folder; each rank reads what it holds.

    Raises:
        OSError: The folder does not hold them, or asks for code to be run.
    """
    if not targets:
        return
    import torch.distributed.checkpoint as dcp

    from common.sharding.reader import ShardReader

    for folder in {stored.folder for stored in targets}:
        wanted = {stored.key: tensor for stored, tensor in targets.items() if stored.folder == folder}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that each process reads for itself is meant
            try:
                dcp.load(wanted, storage_reader=ShardReader(folder), no_dist=True)
            except dcp.CheckpointException as error:
                raise OSError(f"{folder}: {_cause(error)}") from error


def read_all(state: Any) -> Any:
    """Return a state with each ``Stored`` replaced by the whole tensor, in host memory."""
    targets: dict[Stored, torch.Tensor] = {}

    def fill(_path: tuple, value: Any) -> Any:
        if not isinstance(value, Stored):
            return value
        return targets.setdefault(value, torch.empty(value.shape, dtype=value.dtype))

    state = map_nested(state, fill)
    read_stored(targets)
    return state
