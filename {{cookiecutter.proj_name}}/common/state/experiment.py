"""The folder of a run: opened without ever overwriting another run, and holding all it takes to repeat it."""

from __future__ import annotations

import errno
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from common import __version__
from common.config import dump_config
from common.config.console import is_command
from common.config.errors import UserError
from common.config.schema import Config
from common.config.secrets import find_secrets, has_secrets, hide, hide_in_code, redact
from common.log.console import add_log
from common.run.distributed import get_world_size, master_only
from common.state.checkpoint import find_checkpoint, find_newest

_LOCKS = {"run.lock", "run.lock.soft"}
_BEFORE_RESULTS = {"train.log", "cfg_backup.yaml", "cfg_public.yaml", "environment.txt", "job.sh", "event"} | _LOCKS
_CODE = (".py", ".cpp", ".cu", ".cuh", ".h")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_hold: BaseFileLock | None = None  # this process's hold on the folder of its run


def open_experiment(config: Config) -> tuple[Path, Path | None]:
    """Create the folder of a new run, or find that of the run to resume; return it and the checkpoint to start from.

    The folder is this process's until ``leave_experiment``, or its end. A run that torchrun or Slurm has restarted
    resumes from its own newest checkpoint, whatever ``resume`` says. Raise a UserError if the name is taken or
    ``resume`` leads to no checkpoint.
    """
    name, restarted = config.name.replace("{time}", f"{datetime.now():%Y%m%d-%H%M%S}"), _is_set("RESTART_COUNT")
    folder = Path(config.dir.expr_dir) / name
    auto = config.resume == "auto" or restarted
    if name != config.name and (auto or _is_set("MAX_RESTARTS")):
        raise UserError(f"--name {config.name}: a run that goes on by itself needs a name that stays, without {{time}}")
    given, fine_tunes = config.resume not in (None, "auto"), config.progress.start_epoch == 0
    checkpoint = find_checkpoint(str(config.resume), for_weights=fine_tunes) if given else None
    if checkpoint is not None and not checkpoint.is_file():
        raise UserError(f"--resume {config.resume}: no such file or folder")
    if checkpoint is not None and config.progress.start_epoch < 0 and checkpoint.parent.name == "checkpoints":
        _hold_alone(folder := checkpoint.parent.parent)
        return folder, find_newest(checkpoint.parent) if restarted else checkpoint
    _hold_alone(folder)
    if auto:
        return folder, find_newest(folder / "checkpoints") or checkpoint
    # What a run leaves that failed before its first result may be written over.
    if {path.name for path in folder.iterdir() if path.is_dir() or path.lstat().st_size > 0} - _BEFORE_RESULTS:
        ways = f"go on with it by --resume {folder}, take another --name, or put {{time}} into the name"
        raise UserError(f"{folder} exists and is not overwritten: {ways}")
    return folder, checkpoint


def _hold_alone(folder: Path) -> None:
    """Create a folder and hold it by a lock that ends with this process; raise a UserError if another run holds it."""
    global _hold
    leave_experiment()
    file = folder / "run.lock"
    _hold = FileLock(file, timeout=0.5, fallback_to_soft=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _hold.acquire()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _hold = SoftFileLock(f"{file}.soft", timeout=0.5)
            left = f"if this run is killed, {_hold.lock_file} stays and keeps other hosts out until you delete it"
            add_log(f"{folder}: on a file system without locks ({error.strerror}); {left}", "WARNING")
            _hold.acquire()
    except Timeout:
        holder = "another run"
        with suppress(OSError):  # on Windows nobody can read or write a file that is locked
            holder = file.read_text(encoding="utf-8") or holder
        way = f"take another --name; if that run has ended all the same, delete {_hold.lock_file}"
        raise UserError(f"{folder} is in use by {holder}: {way}") from None
    except OSError as error:
        where = "--name and --dir.expr_dir say where a run writes"
        raise UserError(f"{folder}: cannot be written to: {error.strerror}; {where}") from None
    with suppress(OSError):
        file.write_text(f"pid {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")


def leave_experiment() -> None:
    """Let other runs use the folder of this process's run."""
    if _hold is not None:
        _hold.release()


def open_results(config: Config) -> tuple[Path, Path]:
    """Create the folder that an evaluation writes to, and return it and the checkpoint to evaluate.

    Raise a UserError if the folder holds results already: those of another checkpoint would mix with the new ones.
    """
    if not config.model_pt:
        raise UserError("--model_pt: expected the checkpoint to evaluate, found none")
    checkpoint = find_checkpoint(config.model_pt, "--model_pt", for_weights=True)
    parent = checkpoint.absolute().parent
    run = parent.parent if parent.name == "checkpoints" else parent
    time = f"{datetime.now():%Y%m%d-%H%M%S}"
    names = {"name": config.name, "time": time, "run": run.name, "checkpoint": checkpoint.stem}
    folder = Path(re.sub(r"\{(name|time|run|checkpoint)\}", lambda match: names[match[1]], config.dir.eval_dir))
    if folder.is_dir() and any(path.name != "eval.log" for path in folder.iterdir()):
        ways = "take another --dir.eval_dir, put {time} into it, or remove that folder"
        raise UserError(f"{folder} holds results and is not overwritten: {ways}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder, checkpoint


@master_only
def back_up(config: Config, folder: Path, device: torch.device) -> None:
    """Write ``cfg_backup.yaml``, ``environment.txt`` and ``job.sh``, which repeats the run, to its folder.

    The backup of a resumed run names no checkpoint: it repeats the run from its start. If the config holds secrets,
    only its owner may read the backup, and ``cfg_public.yaml`` is the copy without them.
    """
    in_place = config.resume is not None and config.progress.start_epoch < 0
    folder.mkdir(parents=True, exist_ok=True)
    repeated = replace(config, resume=None) if in_place else config
    backup, secrets = folder / "cfg_backup.yaml", find_secrets(asdict(config))
    backup.unlink(missing_ok=True)
    backup.touch(mode=0o600 if secrets else 0o666)
    backup.write_text(dump_config(repeated), encoding="utf-8")
    if secrets:
        (folder / "cfg_public.yaml").write_text(dump_config(repeated, redact), encoding="utf-8")
    (folder / "environment.txt").write_text(hide(describe_environment(device), secrets), encoding="utf-8")
    root = Path(config.dir.expr_dir)
    name = folder.relative_to(root) if folder.is_relative_to(root) else folder.name
    job = _job_script(backup, f"{name}_replicate")
    (folder / "job.sh").write_bytes(os.fsencode(job))  # paths may be in another encoding than the locale's


@master_only
def look_at_space(folder: Path, models: Iterable[torch.nn.Module], must_fit: bool) -> None:
    """Warn, or with ``must_fit`` raise a UserError, if two checkpoints do not fit on the disk: the new beside the old.

    A checkpoint is estimated as four times its weights: an optimizer with two moments, and an average.
    """
    weights = sum(tensor.nbytes for model in models for tensor in model.state_dict().values())
    free = shutil.disk_usage(folder).free
    if free > 8 * weights:
        return
    text = f"{folder}: {free / 2**20:.0f} MiB are free on the disk, and a checkpoint may take {weights / 2**18:.0f} MiB"
    if must_fit:
        raise UserError(f"{text}; checkpoint.on_error continue would train all the same")
    add_log(text, "WARNING")


def describe_run(config: Config, loader: Any) -> dict[str, Any]:
    """Return what a checkpoint says of itself: versions, the config without secrets, and the data set's class names.

    The names are the attribute ``classes`` of the loader's data set; None if it has no such attribute.
    """
    return {
        "engine": __version__,
        "format": 1,
        "config": redact(asdict(replace(config, resume=None))),
        "classes": classes_of(loader),
    }


def classes_of(loader: Any) -> list[str] | None:
    """Return ``classes`` of a loader's data set: the class names in the order of their numbers; None if it has none."""
    dataset = getattr(loader, "dataset", None)
    while dataset is not None and not hasattr(dataset, "classes"):
        dataset = getattr(dataset, "dataset", None)  # of the view or the reader around it
    return None if dataset is None else [str(name) for name in dataset.classes]


def describe_environment(device: torch.device) -> str:
    """Return the versions of all packages, device, git commit and uncommitted changes as text."""
    commit = _git("rev-parse", "HEAD")
    lines = [
        f"python {platform.python_version()} on {platform.platform()}",
        f"device {describe_device(device)}, processes {get_world_size()}, CPU threads {torch.get_num_threads()}",
        f"cuda {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}",
        f"git commit {commit or 'none'}",
        *sorted({f"{package.name} {package.version}" for package in distributions()}, key=str.lower),
    ]
    if commit:
        lines += ["", "uncommitted changes:", _uncommitted_changes() or "none"]
    return "\n".join(lines) + "\n"


def _uncommitted_changes() -> str:
    """Return the changes to the repository, without secrets."""
    whole, shown = _changes("-U999999"), []  # in which a key that is not itself near a change is seen, too
    for header, text in _changes().items():
        if header.endswith(_CODE):
            shown.append(hide_in_code(text))
        elif header in whole and not has_secrets(whole[header]):
            shown.append(text)
        else:
            shown.append(f"{header}\nleft out, since this file seems to hold a secret\n")
    return "".join(shown)


def _changes(*options: str) -> dict[str, str]:
    """Return the uncommitted changes of each file by their first line."""
    files = re.split(r"(?m)^(?=diff --git )", _git("diff", *options, "HEAD"))
    return {text.splitlines()[0]: text for text in files if text}


def describe_device(device: torch.device) -> str:
    """Return a device's name for people."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _git(*arguments: str) -> str:
    """Return what git prints; nothing without git or a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _job_script(backup: Path, name: str) -> str:
    """Return a script that repeats the run under another name, with the same launcher and number of processes."""
    processes = get_world_size()
    python = "python" if processes == 1 else f"torchrun --standalone --nproc_per_node {processes}"
    script = sys.argv[0] if is_command() else "train.py"
    command = shlex.join([*python.split(), script, "--config", str(backup.absolute()), "--name", name])
    about = "# Repeats this run; further flags may follow, such as --name another_name or --gpu_ids 0."
    return f'#!/bin/sh\n{about}\ncd {shlex.quote(str(Path.cwd()))} || exit 1\nexec {command} "$@"\n'


def _is_set(count: str) -> bool:
    """Return whether a count of torchrun's or Slurm's is not zero."""
    return any(os.environ.get(f"{prefix}_{count}", "0") != "0" for prefix in ("TORCHELASTIC", "SLURM"))
