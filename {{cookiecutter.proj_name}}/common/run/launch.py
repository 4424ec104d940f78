"""From a command to processes that are ready to train: device, process group, seed, log, folder; and how they end."""

from __future__ import annotations

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

from common.config.errors import RunError, UserError
from common.config.schema import Config
from common.config.secrets import find_secrets, hide
from common.log.console import add_log, setup_logger
from common.run import distributed
from common.run.device import choose_device, gpu_numbers, keep_freed_memory
from common.run.processes import adopt_slurm, start_processes
from common.run.seed import seed_everything
from common.run.signals import Interrupted, end_at_once, end_with_parent, handling, unhandled
from common.run.strategy import SHARDED, WHOLE, Strategy, choose_strategy, make_strategy
from common.state.experiment import leave_experiment, open_experiment

OpenFolder = Callable[[Config], tuple[Path, Path | None]]


@dataclass(frozen=True)
class Session:
    """This process's device, the run's folder, the checkpoint to start from, and how models are placed and wrapped.

    ``goes_on``: whether to resume exactly from the checkpoint, or to take its weights alone.
    """

    device: torch.device
    folder: Path
    checkpoint: Path | None
    goes_on: bool = True
    strategy: Strategy = WHOLE

    def __post_init__(self):
        if self.strategy is WHOLE:  # which is for the CPU
            object.__setattr__(self, "strategy", Strategy("none", self.device))


@contextmanager
def launch(config: Config, open_folder: OpenFolder = open_experiment) -> Iterator[Session]:
    """Start this process's share of a run, and end it well.

    This is one process, or one of those that ``torchrun`` or ``srun`` started. Where the config asks for several and
    nobody has started them, this process starts them, waits, and exits as they do. ``open_folder`` finds or makes the
    run's folder on rank 0: ``open_experiment`` or ``open_results``.

    The program's exit code: 0, done; 1, an error, of which a RunError is shown as one line and any other with its
    traceback; 2, a UserError, one line; 75, interrupted by SIGTERM or SIGUSR1 and saved, to be started again; 130,
    interrupted by Ctrl-C.
    """
    secrets, neighbors = find_secrets(asdict(config)), []
    with handling(end_at_once, until_the_end=True):
        setup_logger(secrets=secrets)
        try:
            if "TORCHELASTIC_RUN_ID" in os.environ:
                end_with_parent(signal.SIGTERM)
            adopt_slurm()
            name = _choose_processes(config)
            device = choose_device(config.gpu_ids, one_process=name == "dp")
            neighbors = start_process_group(config, device, name)
            strategy = make_strategy(name, config, device)
            folder, checkpoint = _open_on_rank_0(open_folder, config)
            setup_logger(folder / ("train.log" if open_folder is open_experiment else "eval.log"), secrets)
            seed_everything(config.trainer.seed + distributed.get_data_rank(), config.trainer.deterministic)
            keep_freed_memory()
            goes_on = config.progress.start_epoch < 0 or (checkpoint is not None and checkpoint.parent.parent == folder)
            yield Session(device, folder, checkpoint, goes_on, strategy)
            distributed.barrier()  # so that no rank closes its connections while another still uses them
        except Exception as error:
            with handling(lambda number: None):  # such as of a launcher that saw the other process end, too
                _end_by(error, secrets, neighbors)
        except Interrupted as end:
            add_log(f"ended by {end.name}, exit code {end.code}", "WARNING")
            _leave_group()
            raise
        finally:
            leave_experiment()
        _leave_group()


def _choose_processes(config: Config) -> str:
    """Return the name of the strategy; where several processes are wanted, start them and exit as they do."""
    started, wanted = int(os.environ.get("WORLD_SIZE", 0)), wanted_processes(config)
    name, gpus = choose_strategy(config.dist, started or wanted), torch.cuda.device_count()
    if max(gpu_numbers(config.gpu_ids), default=-1) >= gpus:
        raise UserError(f"--gpu_ids {config.gpu_ids}: found {gpus} GPUs; -1 means the CPU")
    if not started and wanted > 1:
        sys.exit(start_processes(wanted, config.dist.timeout))
    return name


def wanted_processes(config: Config) -> int:
    """Return how many processes a config asks for on this machine."""
    gpus = 1 if config.dist.strategy == "dp" else len(gpu_numbers(config.gpu_ids))
    return config.dist.nproc or gpus or 1


def start_process_group(config: Config, device: torch.device, strategy: str) -> list[int]:
    """Join the other processes of the run, and return the process ids of those on this machine."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = config.dist.backend or ("nccl" if device.type == "cuda" else "gloo")
    timeout = timedelta(seconds=config.dist.timeout)
    with unhandled():
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
            if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
                # torchrun keeps one store for all its restarts, with the addresses of the last one still in it.
                store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
            dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
        elif strategy in SHARDED:  # these need a group even of one
            dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1)
    host, own = socket.gethostname(), os.getpid()
    return [process for place, process in distributed.gather((host, own)) if place == host and process != own]


def _open_on_rank_0(open_folder: OpenFolder, config: Config) -> tuple[Path, Path | None]:
    """Open the folder on rank 0 and return the result on every rank; rank 0 raises its UserError, the others exit."""
    outcome = None
    if distributed.get_rank() == 0:
        try:
            outcome = open_folder(config)
        except UserError as error:
            outcome = error
        except OSError as error:
            outcome = UserError(f"{error.filename or config.name}: {error.strerror}")
    outcome = distributed.broadcast(outcome)
    if isinstance(outcome, UserError):
        raise outcome if distributed.get_rank() == 0 else SystemExit(outcome.exit_code)
    return outcome


def _leave_group() -> None:
    distributed.let_threads_rest()
    if dist.is_initialized():
        dist.destroy_process_group()


def _end_by(error: Exception, secrets: set[str], neighbors: list[int]) -> None:
    """Show an error, with its rank where there are several: one that is meant for people as one line."""
    add_log("".join(traceback.format_exception(error)), "DEBUG")  # to the file
    distributed.let_threads_rest()
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    start, broken = f"{Path(sys.argv[0]).name}: {rank}", distributed.describe_broken_group(error)
    if broken:
        error = RunError(broken)
    if isinstance(error, UserError):
        print(f"{start}error: {hide(str(error), secrets)}", file=sys.stderr, flush=True)
        if broken:
            _end_all(neighbors)
        sys.exit(error.exit_code)
    if rank:
        print(f"{start}{type(error).__name__}:", file=sys.stderr)
    raise error


def _end_all(neighbors: list[int]) -> None:
    """End the processes on this machine that hang or are stopped, after a second in which to leave by themselves."""
    for number, seconds in ((signal.SIGCONT, 1.0), (signal.SIGKILL, 0.0)):
        for process in neighbors:
            with suppress(OSError):
                os.kill(process, number)
        time.sleep(seconds)
