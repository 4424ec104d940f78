"""Reading the shards of a checkpoint without running the code that their metadata may ask for."""

from __future__ import annotations

import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

_KNOWN = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}


def _member(enum: Any, name: str) -> Any:
    """Return a member of an enumeration, which some versions of Python pickle as a getattr; refuse anything else."""
    if not (isinstance(enum, type) and issubclass(enum, Enum)):
        raise pickle.UnpicklingError(f"asks for {name} of {enum}")
    return enum[name]


class _Unpickler(pickle.Unpickler):
    """Loads the classes of the shards' metadata, and refuses anything else that a pickle can ask for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if name not in _KNOWN.get(module, ()) and not is_dtype:
            raise pickle.UnpicklingError(f"asks for {module}.{name}")
        return super().find_class(module, name)


class ShardReader(FileSystemReader):
    """Reads shards without running code: torch's own reader unpickles whatever their metadata asks for."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Return the metadata of the folder.

        Raises:
            pickle.UnpicklingError: It asks for more than it needs.
        """
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Unpickler(file).load()
        if not all(isinstance(one, TensorStorageMetadata) for one in metadata.state_dict_metadata.values()):
            raise pickle.UnpicklingError("holds more than tensors")
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata
