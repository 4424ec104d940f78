"""From a command to processes that are ready to train: device, process group, seed, log, folder; and the way out."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from common.config.errors import RunError, UserError
from common.config.schema import Config
from common.config.secrets import find_secrets, hide
from common.log.console import add_log, setup_logger
from common.run.distributed import barrier, broadcast, describe_loss, gather, get_data_rank, get_rank, let_threads_rest
from common.run.processes import adopt_slurm, start_processes
from common.run.seed import seed_everything
from common.run.signals import Interrupted, end_at_once, end_with_parent, handling, unhandled
from common.sharding.parallel import SHARDED, choose_strategy, gpu_numbers, make_mesh
from common.state.experiment import open_experiment


@dataclass(frozen=True)
class Session:
    """What is learnt when a run starts; the config never changes."""

    device: torch.device
    """The device of this process."""
    folder: Path
    """Where this run writes."""
    checkpoint: Path | None
    """The checkpoint to start from, if any."""
    goes_on: bool = True
    """Whether to go on exactly from the checkpoint, or to take its weights alone."""
    strategy: str = "none"
    """How models are spread: none, dp, ddp, fsdp or tp."""
    mesh: DeviceMesh | None = None
    """How the processes are arranged for a strategy that shards."""


@contextmanager
def launch(
    config: Config, open_folder: Callable[[Config], tuple[Path, Path | None]] = open_experiment
) -> Iterator[Session]:
    """Start this process's share of a run, and end it well.

    This is one process, or one of those that ``torchrun`` or ``srun`` started; where the config asks for several and
    nobody has started them, this process starts them, waits, and exits as they do. The program's exit code: 0, done; 1,
    an error, of which a RunError is shown as one line and any other with its traceback; 2, a UserError, one line; 75,
    cut by SIGTERM or SIGUSR1 and saved, to be started again; 130, cut by Ctrl-C.

    Args:
        config: The whole config.
        open_folder: Finds or makes the run's folder on rank 0: ``open_experiment`` or ``open_results``.
    """
    with handling(end_at_once, until_the_end=True):
        if "TORCHELASTIC_RUN_ID" in os.environ:
            end_with_parent(signal.SIGTERM)
        yield from _launch(config, open_folder)


def _launch(config: Config, open_folder: Callable) -> Iterator[Session]:
    secrets, neighbours = set(find_secrets(asdict(config))), []
    setup_logger(secrets=secrets)
    try:
        adopt_slurm()
        processes, wanted = int(os.environ.get("WORLD_SIZE", 0)), wanted_processes(config)
        strategy = choose_strategy(config.dist, processes or wanted)
        check_gpus(config.gpu_ids)
        if not processes and wanted > 1:
            sys.exit(start_processes(wanted, config.dist.timeout))
        device = choose_device(config.gpu_ids, one_process=strategy == "dp")
        neighbours = start_process_group(config, device, strategy)
        mesh = make_mesh(strategy, config.dist, device)
        folder, checkpoint = open_on_rank_0(open_folder, config)
        setup_logger(folder / ("train.log" if open_folder is open_experiment else "eval.log"), secrets)
        seed_everything(config.trainer.seed + get_data_rank(), config.trainer.deterministic)
        keep_freed_memory()
        goes_on = config.progress.start_epoch < 0 or (checkpoint is not None and checkpoint.parent.parent == folder)
        yield Session(device, folder, checkpoint, goes_on, strategy, mesh)
    except Exception as error:
        _end_by(error, secrets, neighbours)
    except Interrupted as end:
        add_log(f"ended by {end.name}, exit code {end.code}", "WARNING")
        _leave_group()
        raise
    barrier()  # so that no rank closes its connections while another still uses them
    _leave_group()


def _leave_group() -> None:
    let_threads_rest()
    if dist.is_initialized():
        dist.destroy_process_group()


def _end_by(error: Exception, secrets: set[str], neighbours: list[int]) -> None:
    """Show an error, with its rank where there are several: one that is meant for people as one line."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    name, rank = Path(sys.argv[0]).name, f"rank {os.environ['RANK']}: " if several else ""
    add_log("".join(traceback.format_exception(error)), "DEBUG")  # to the file
    let_threads_rest()
    loss = describe_loss(error)
    if loss:
        error = RunError(loss)
    if isinstance(error, UserError):
        print(f"{name}: {rank}error: {hide(str(error), secrets)}", file=sys.stderr, flush=True)
        if loss:
            _end_all(neighbours)
        sys.exit(error.exit_code)
    if rank:
        print(f"{name}: {rank}{type(error).__name__}:", file=sys.stderr)
    raise error


def _end_all(neighbours: list[int]) -> None:
    """End the processes on this machine that hang, or were stopped, after a second in which to leave by themselves."""
    for number, seconds in ((signal.SIGCONT, 1.0), (signal.SIGKILL, 0.0)):
        for process in neighbours:
            with suppress(OSError):
                os.kill(process, number)
        time.sleep(seconds)


def wanted_processes(config: Config) -> int:
    """Return how many processes a config asks for on this machine."""
    gpus = 1 if config.dist.strategy == "dp" else len(gpu_numbers(config.gpu_ids))
    return config.dist.nproc or gpus


def check_gpus(gpu_ids: int | list[int] | str | None) -> None:
    """Look whether the GPUs that a config names are there.

    Raises:
        UserError: One is not.
    """
    found, ids = torch.cuda.device_count(), gpu_numbers(gpu_ids)
    if ids != [None] and max(ids) >= found:
        raise UserError(f"--gpu_ids {gpu_ids}: found {found} GPUs; -1 means the CPU")


def choose_device(gpu_ids: int | list[int] | str | None, one_process: bool = False) -> torch.device:
    """Return the device of this process.

    Args:
        gpu_ids: None for the best at hand, -1 for the CPU, or the numbers of GPUs, of which a process takes the one at
            its local rank.
        one_process: One process feeds all of the GPUs; its own is the first.

    Raises:
        UserError: No such GPU, or another number of processes on this machine than GPUs were named.
    """
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    found, ids = torch.cuda.device_count(), gpu_numbers(gpu_ids)
    if ids == [None] and not found:
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if ids == [-1]:
        return torch.device("cpu")
    if ids == [None]:
        # srun may show each process nothing but its own GPU.
        ids = [0] * local_size if found == 1 else list(range(local_size))
    if len(ids) != local_size and not one_process:
        raise UserError(f"--gpu_ids {gpu_ids}: {len(ids)} GPUs for {local_size} processes on this machine")
    if ids[local_rank] >= found:
        raise UserError(f"--gpu_ids {gpu_ids}: found {found} GPUs for {local_size} processes on this machine")
    return torch.device("cuda", ids[local_rank])


def start_process_group(config: Config, device: torch.device, strategy: str) -> list[int]:
    """Join the other processes of the run; a strategy that shards needs a group even of one.

    Returns:
        The numbers (pid) of those on this machine.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = config.dist.backend or ("nccl" if device.type == "cuda" else "gloo")
    timeout = timedelta(seconds=config.dist.timeout)
    with unhandled():
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
            if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
                # torchrun keeps one store for all its starts, in which the addresses of the last one still stand.
                store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
        elif strategy in SHARDED:
            dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1)
    everyone = gather((socket.gethostname(), os.getpid()))
    return [process for host, process in everyone if host == socket.gethostname() and process != os.getpid()]


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


def open_on_rank_0(open_folder: Callable, config: Config) -> tuple[Path, Path | None]:
    """Call a function on rank 0 and return its result on every rank, or raise its UserError there and leave here."""
    outcome = None
    if get_rank() == 0:
        try:
            outcome = open_folder(config)
        except UserError as error:
            outcome = error
    outcome = broadcast(outcome)
    if isinstance(outcome, UserError):
        if get_rank() != 0:
            sys.exit(outcome.exit_code)  # rank 0 says it
        raise outcome
    return outcome
