"""What a run was computed with: versions, device, commit."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from common.run.distributed import get_world_size

_PACKAGES = "torch numpy loguru tensorboard pyyaml jsonargparse tqdm matplotlib pillow kornia torchmetrics".split()


def describe_environment(device: torch.device) -> str:
    """Return versions, device, git commit and uncommitted changes as text."""
    commit = _git("rev-parse", "HEAD")
    lines = [
        f"python {platform.python_version()} on {platform.platform()}",
        *map(_describe_package, _PACKAGES),
        f"device {describe_device(device)}, processes {get_world_size()}, CPU threads {torch.get_num_threads()}",
        f"cuda {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}",
        f"git commit {commit or 'none'}",
    ]
    if commit:
        lines += ["", "uncommitted changes:", _git("diff", "HEAD") or "none"]
    return "\n".join(lines) + "\n"


def describe_device(device: torch.device) -> str:
    """Return a device's name for people."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _describe_package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} not installed"


def _git(*arguments: str) -> str:
    """Return what git prints; nothing without git or a repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=20, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
