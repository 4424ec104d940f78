"""The folder of a run: opened without ever overwriting another run, and holding all it takes to repeat it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from common import __version__
from common.config import dump_config
from common.config.errors import UserError
from common.config.schema import Config
from common.config.secrets import find_secrets, has_secrets, hide, hide_in_code, redact
from common.log.console import add_log
from common.run.distributed import get_world_size, master_only
from common.state.checkpoint import find_checkpoint, find_newest

_BEFORE_RESULTS = {"train.log", "cfg_backup.yaml", "cfg_public.yaml", "environment.txt", "job.sh", "event"}
_CODE = ("*.py", "*.cpp", "*.cu", "*.cuh", "*.h")


def open_experiment(config: Config) -> tuple[Path, Path | None]:
    """Create the folder of a new run, or find that of the run to resume; return it and the checkpoint to start from.

    A run that torchrun or Slurm has restarted resumes from its own newest checkpoint, whatever ``resume`` says. Raise a
    UserError if the name is taken or ``resume`` leads to no checkpoint.
    """
    name, restarted = config.name.replace("{time}", f"{datetime.now():%Y%m%d-%H%M%S}"), _is_set("RESTART_COUNT")
    folder = Path(config.dir.expr_dir) / name
    auto = config.resume == "auto" or restarted
    if name != config.name and (auto or _is_set("MAX_RESTARTS")):
        raise UserError(f"--name {config.name}: a run that goes on by itself needs a name that stays, without {{time}}")
    given, fine_tunes = config.resume not in (None, "auto"), config.progress.start_epoch == 0
    checkpoint = find_checkpoint(str(config.resume), fine_tunes) if given else None
    if checkpoint is not None and not checkpoint.is_file():
        raise UserError(f"--resume {config.resume}: no such file or folder")
    if checkpoint is not None and config.progress.start_epoch < 0 and checkpoint.parent.name == "checkpoints":
        return checkpoint.parent.parent, find_newest(checkpoint.parent) if restarted else checkpoint
    if auto:
        return _create(folder), find_newest(folder / "checkpoints") or checkpoint
    if _has_results(folder):
        ways = f"go on with it by --resume {folder}, take another --name, or put {{time}} into the name"
        raise UserError(f"{folder} exists and is not overwritten: {ways}")
    return _create(folder), checkpoint


def open_results(config: Config) -> tuple[Path, Path]:
    """Create the folder that an evaluation writes to, and return it and the checkpoint to evaluate."""
    if not config.model_pt:
        raise UserError("--model_pt: expected the checkpoint to evaluate, found none")
    folder = config.dir.eval_dir.replace("{name}", config.name).replace("{time}", f"{datetime.now():%Y%m%d-%H%M%S}")
    return _create(Path(folder)), find_checkpoint(config.model_pt, for_weights=True)


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
    dataset = getattr(loader, "dataset", None)
    while dataset is not None and not hasattr(dataset, "classes"):
        dataset = getattr(dataset, "dataset", None)  # a part of another data set
    classes = None if dataset is None else [str(name) for name in dataset.classes]
    return {
        "engine": __version__,
        "format": 1,
        "config": redact(asdict(replace(config, resume=None))),
        "classes": classes,
    }


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
    """Return the changes to the repository, those of code first, without any secrets."""
    code = hide_in_code(_git("diff", "HEAD", "--", *(f":(top){names}" for names in _CODE)))
    # Whole files, so that a key that is not itself near a change is seen, too.
    others = _git("diff", "-U999999", "HEAD", "--", ":(top)", *(f":(top,exclude){names}" for names in _CODE))
    files = [text for text in re.split(r"(?m)^(?=diff --git )", others) if text]
    left_out = "left out, since this file seems to hold a secret"
    shown = [f"{text.splitlines()[0]}\n{left_out}\n" if has_secrets(text) else text for text in files]
    return "\n".join(filter(None, [code, "".join(shown)]))


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
    command = shlex.join([*python.split(), sys.argv[0], "--config", str(backup.absolute()), "--name", name])
    about = "# Repeats this run; further flags may follow, such as --name another_name or --gpu_ids 0."
    return f'#!/bin/sh\n{about}\ncd {shlex.quote(str(Path.cwd()))} || exit 1\nexec {command} "$@"\n'


def _is_set(count: str) -> bool:
    """Return whether a count of torchrun's or Slurm's is not zero."""
    return any(os.environ.get(f"{prefix}_{count}", "0") != "0" for prefix in ("TORCHELASTIC", "SLURM"))


def _has_results(folder: Path) -> bool:
    """Return whether there is anything to lose: more than a run leaves that failed before its first result."""
    if not folder.is_dir():
        return folder.exists()
    left = {path.name for path in folder.iterdir() if path.is_dir() or path.stat().st_size > 0}
    return not left <= _BEFORE_RESULTS


def _create(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}") from None
    return folder
