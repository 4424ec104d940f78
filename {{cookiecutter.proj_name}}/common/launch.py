"""From a command to processes that are ready to train: device, process group, seed, log, folder; and the way out."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from common.distributed import barrier, broadcast, get_rank
from common.errors import UserError
from common.experiment import open_experiment
from common.logger import add_log, setup_logger
from common.schema import Config
from common.secrets import find_secrets, hide
from common.seed import seed_everything
from common.signals import Interrupted, end_at_once, handling


@dataclass(frozen=True)
class Session:
    """What is learnt when a run starts; the config never changes."""

    device: torch.device
    """The device of this process."""
    folder: Path
    """Where this run writes."""
    checkpoint: Path | None
    """The checkpoint to start from, if any."""


@contextmanager
def launch(
    config: Config, open_folder: Callable[[Config], tuple[Path, Path | None]] = open_experiment
) -> Iterator[Session]:
    """Start this process's share of a run, and end it well.

    One process, or one of those that ``torchrun`` started. The program's exit code: 0, done; 1, an error, of which a
    RunError is shown as one line and any other with its traceback; 2, a UserError, one line; 75, cut by SIGTERM or
    SIGUSR1 and saved, to be started again; 130, cut by Ctrl-C.

    Args:
        config: The whole config.
        open_folder: Finds or makes the run's folder on rank 0: ``open_experiment`` or ``open_results``.
    """
    with handling(end_at_once):
        yield from _launch(config, open_folder)


def _launch(config: Config, open_folder: Callable) -> Iterator[Session]:
    secrets = set(find_secrets(asdict(config)))
    setup_logger(secrets=secrets)
    try:
        device = choose_device(config.gpu_ids)
        start_process_group(config, device)
        folder, checkpoint = _on_rank_0(open_folder, config)
        setup_logger(folder / ("train.log" if open_folder is open_experiment else "eval.log"), secrets)
        seed_everything(config.trainer.seed + get_rank(), config.trainer.deterministic)
        keep_freed_memory()
        yield Session(device, folder, checkpoint)
    except Exception as error:
        add_log("".join(traceback.format_exception(error)), "DEBUG")  # to the file
        if not isinstance(error, UserError):
            raise
        tag = f"rank {get_rank()}: " if get_rank() else ""
        print(f"{Path(sys.argv[0]).name}: {tag}error: {hide(str(error), secrets)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Interrupted as end:
        add_log(f"ended by {end.name}, exit code {end.code}", "WARNING")
        if dist.is_initialized():
            dist.destroy_process_group()
        raise
    if dist.is_initialized():
        barrier()  # so that no rank closes its connections while another still uses them
        dist.destroy_process_group()


def choose_device(gpu_ids: int | list[int] | str | None) -> torch.device:
    """Return the device of this process.

    Args:
        gpu_ids: None for the best at hand, -1 for the CPU, or the numbers of GPUs, of which a process takes the one at
            its local rank.

    Raises:
        UserError: No such GPU, or fewer processes on this machine than GPUs were named.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if gpu_ids is None:
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    ids = [int(part) for part in gpu_ids.split(",")] if isinstance(gpu_ids, str) else gpu_ids
    ids = ids if isinstance(ids, list) else [ids]
    if ids == [-1]:
        return torch.device("cpu")
    if len(ids) != local_size:
        raise UserError(
            f"--gpu_ids {gpu_ids}: {len(ids)} GPUs for {local_size} process(es); "
            f"start one each: torchrun --nproc_per_node {len(ids)} {sys.argv[0]}"
        )
    if ids[local_rank] >= torch.cuda.device_count():
        raise UserError(f"--gpu_ids {gpu_ids}: found {torch.cuda.device_count()} GPUs; -1 means the CPU")
    return torch.device("cuda", ids[local_rank])


def start_process_group(config: Config, device: torch.device) -> None:
    """Join the other processes that ``torchrun`` started, if any."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "MASTER_ADDR" in os.environ:
        backend = config.dist.backend or ("nccl" if device.type == "cuda" else "gloo")
        dist.init_process_group(backend, timeout=timedelta(seconds=config.dist.timeout))


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next step, where it otherwise gives it back and faults it in again.

    This halves the time of a mid-size step on a CPU. Elsewhere than on glibc nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(mmap_threshold, 1 << 25)  # the most that every glibc takes
            mallopt(trim_threshold, (1 << 31) - 1)


def _on_rank_0(open_folder: Callable, config: Config) -> tuple[Path, Path | None]:
    """Call a function on rank 0 and return its result, or raise its UserError, on every rank."""
    outcome = None
    if get_rank() == 0:
        try:
            outcome = open_folder(config)
        except UserError as error:
            outcome = error
    outcome = broadcast(outcome)
    if isinstance(outcome, UserError):
        raise outcome
    return outcome
