"""Checkpoints: a dict of parts ↔ files, written in the background; a good one always exists."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from common.config.errors import RunError, UserError, one_line
from common.config.registry import find_room
from common.log.console import add_log, complain
from common.run.distributed import get_rank
from common.run.strategy import WHOLE, Strategy, map_nested
from common.state.file import SHARDS, find_fault, flush_folder, link, read_checkpoint, save_number, write_durably


class Checkpointer:
    """Saves and loads the parts of a run.

    A file is a plain ``torch.save`` dict with one key a part (``model``, ``optimizer``, ...) that anyone can open with
    ``torch.load(..., weights_only=True)``. A save copies the state to host memory; a thread writes it from there.

    Args:
        folder: Where the files go: ``latest.pt``, ``previous.pt`` (the ``latest.pt`` before), ``best_<metric>.pt``,
            ``epoch_NNN.pt``, ``iter_NNN.pt``, ``final.pt``. What a killed save left there is removed.
        parts: The parts by name, in the order in which they are loaded: anything with ``state_dict`` and
            ``load_state_dict``, of plain data and tensors.
        keep_last: How many numbered files stay (None: all).
        stop_on_error: Raise a RunError if a file cannot be written; otherwise log it and continue.
        sharded: Let each rank write its shards of sharded tensors to a folder beside the file.
        about: Plain data that each file holds beside the parts, for those who read it; it is not loaded.
    """

    def __init__(
        self,
        folder: Path,
        parts: dict[str, Any],
        keep_last: int | None = None,
        stop_on_error: bool = False,
        sharded: bool = False,
        strategy: Strategy = WHOLE,
        about: dict[str, Any] | None = None,
    ):
        self.folder, self.parts, self._strategy, self._about = folder, parts, strategy, about or {}
        self._keep_last, self._stop_on_error = keep_last, stop_on_error
        self._shards = strategy.shard_writer() if sharded else None
        self._copy = HostCopy(get_rank() == 0, strategy.whole)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None
        self._latest_is_good, self._saves = False, 0
        self.unwritten: set[str] = set()  # names whose last save has failed
        self._home = folder if folder.is_dir() else folder.parent  # which nobody deletes while the run lasts
        if get_rank() == 0:
            folder.parent.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.pt.tmp"):
                leftover.unlink()
            self._saves = max(map(save_number, folder.glob("*.pt")), default=0)
            self._drop_shards()

    def save(self, *names: str, obsolete: Iterable[str] = ()) -> None:
        """Save the current state under each of the names (without ``.pt``). Collective.

        Returns once the state is copied. If the last save is still being written, waits for it first. The files that
        ``obsolete`` names are deleted once this one is proven good.
        """
        self.wait()
        state, shards = {name: part.state_dict() for name, part in self.parts.items()}, None
        if self._shards:
            state, shards = self._shards.write(state, self.folder)
        state = self._copy.take(state)
        if get_rank() == 0:
            self._writing = self._thread.submit(self._write, state | self._about, names, tuple(obsolete), shards)
        elif shards:
            self._writing = self._thread.submit(shards.wait)

    def wait(self, is_last: bool = False) -> None:
        """Wait until the last save is on the disk; if it failed, say so.

        Raise a RunError instead with ``stop_on_error``, or if it ``is_last``: no later save makes up for it.
        """
        error = self._writing.exception() if self._writing else None
        self._writing = None
        if error is None:
            return
        if isinstance(error, RunError):
            raise error
        good = next((path.name for path in newest_first(self.folder)), "none")
        text = f"{self.folder}: a checkpoint could not be written: {one_line(error)}; the last good one: {good}"
        if self._stop_on_error or is_last or not isinstance(error, OSError):
            raise RunError(text) from error
        add_log(text, "DEBUG")
        complain("checkpoints", f"{text}; training goes on")

    @property
    def has_failed(self) -> bool:
        """Whether the last save has ended in an error, known without waiting."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def close(self) -> None:
        """Wait for the last save, on every rank."""
        with self._thread:
            self.wait()

    def load(self, path: Path) -> None:
        """Restore every part. Raise a UserError if the file is damaged, lacks a part, or a part does not fit."""
        state = read_checkpoint(path, whole=not self._strategy.is_sharded)
        for name in self.parts:
            if name not in state:
                hint = "to start from its weights, --progress.start_epoch 0"
                raise UserError(f"{path}: has no '{name}' to go on with; {hint}")
        for name, part in self.parts.items():
            try:
                part.load_state_dict(state[name])
            except UserError as error:
                raise UserError(f"{path}: {one_line(error, 2000)}") from None
            except Exception as error:  # whatever a part raises at a state that is not its own
                raise UserError(f"{path}: '{name}' does not fit this run: {one_line(error)}") from error

    def _write(
        self, state: dict[str, Any], names: tuple[str, ...], obsolete: tuple[str, ...] = (), shards: Any = None
    ) -> None:
        """Write one file, give it its names, and only then delete what they make superfluous."""
        is_gone, self._home = not self._home.is_dir(), self.folder
        self.unwritten |= {*names}
        self.folder.mkdir(parents=True, exist_ok=True)
        if shards:
            state = {**state, SHARDS: shards.seal()}
        first, *others = [self.folder / f"{name}.pt" for name in names]
        latest, beside = self.folder / "latest.pt", first.with_suffix(".pt.tmp")
        try:
            self._saves += 1
            write_durably(state, beside, self._saves)
            # This run may have resumed from previous.pt, which a damaged latest.pt must not replace.
            if "latest" in names and latest.exists() and (self._latest_is_good or find_fault(latest) is None):
                link(latest, latest.with_name("previous.pt"))
            for other in others:
                link(beside, other)
            beside.replace(first)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        self._latest_is_good |= "latest" in names
        self.unwritten -= {*names}
        flush_folder(self.folder)
        dropped = [self.folder / f"{name}.pt" for name in obsolete]
        if self._keep_last is not None:
            numbered = [path for path in newest_first(self.folder) if re.fullmatch(r"(epoch|iter)_\d+\.pt", path.name)]
            dropped += numbered[self._keep_last :]
        if dropped and find_fault(first):
            raise OSError(f"{first} does not read back as it was written, so no older one is deleted")
        for path in dropped:
            path.unlink(missing_ok=True)
        self._drop_shards()
        if is_gone:
            raise RunError(f"{self.folder.parent} was deleted or moved during the run; {first} is all that it has now")

    def _drop_shards(self) -> None:
        """Delete the folders of shards that belong to no file."""
        if any(self.folder.glob(f"*.{SHARDS}")) and (room := find_room("sharding.files")):
            room.drop_unused(self.folder)


class HostCopy:
    """Copies similar states again and again, into memory that it keeps: fresh pages cost more than the copy.

    A process that does not keep the copy only helps to gather the sharded tensors, which ``whole`` returns whole.
    """

    def __init__(self, keeps: bool = True, whole: Callable[[torch.Tensor], torch.Tensor] = WHOLE.whole):
        self._keeps, self._whole = keeps, whole
        self._kept: dict[tuple, torch.Tensor] = {}  # by path in the state and layout

    def take(self, state: Any) -> Any:
        """Return the state with each tensor replaced by a whole copy on the CPU, valid until the next one is taken.

        Shared tensors stay shared. Collective where tensors are sharded.
        """
        kept: dict[tuple, torch.Tensor] = {}
        copies: dict[tuple, torch.Tensor] = {}  # by the memory that was copied

        def copy(path: tuple, value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            own = value.detach()
            whole = self._whole(own)
            if not self._keeps:
                return whole
            layout = whole.shape, whole.stride(), whole.dtype
            # A tensor gathered just now has memory of its own, whose address the next one may get.
            memory = (whole.device, whole.data_ptr(), layout) if whole is own else path
            if memory not in copies:
                host = self._kept.get((path, layout))
                if host is None:
                    host = torch.empty_like(whole, device="cpu", pin_memory=whole.is_cuda)
                kept[path, layout] = copies[memory] = host.copy_(whole, non_blocking=whole.is_cuda)
            return copies[memory]

        copied, self._kept = map_nested(state, copy), kept
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied


def newest_first(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the last saved first; of several names of one file, ``latest.pt``.

    The files themselves say in which order they were saved; of the first releases' files, which do not, ``latest.pt``
    comes first, and then their times count.
    """
    names = os.listdir(folder) if folder.is_dir() else []  # unlike glob, it says so if the folder may not be read
    paths = [folder / name for name in names if name.endswith(".pt")]
    order = {path: (save_number(path), path.name == "latest.pt", path.lstat().st_mtime_ns) for path in paths}
    return sorted(paths, key=order.__getitem__, reverse=True)


def find_newest(folder: Path, for_weights: bool = False) -> Path | None:
    """Return the newest good checkpoint in a folder; None without any file. Raise a UserError if all are damaged."""
    paths, fault = newest_first(folder), None
    for path in paths:
        fault = find_fault(path, for_weights)
        if fault is None:
            return path
        add_log(f"{path} is skipped: {fault}", "WARNING")
    if not paths:
        return None
    text = f"{folder}: none of its {len(paths)} checkpoints is whole, so there is nothing to go on from"
    raise UserError(f"{text} ({paths[-1].name}: {fault}); nothing was changed. To start over, use another --name")


def find_checkpoint(given: str, flag: str = "--resume", for_weights: bool = False) -> Path:
    """Return what a flag gives if it is a file, else the newest good one in it or its ``checkpoints``, or a UserError.

    ``for_weights`` accepts other formats.
    """
    path, newest = Path(given), Path(given)
    if path.is_dir():
        newest = find_newest(path, for_weights) or find_newest(path / "checkpoints", for_weights)
    if newest is None:
        raise UserError(f"{flag} {given}: found no checkpoint in it or in its checkpoints/")
    return newest
