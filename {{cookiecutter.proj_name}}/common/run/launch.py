"""From a command to processes that are ready to train (device, process group, seed, log, folder), and how they end."""

from __future__ import annotations

import ctypes
import gc
import itertools
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from common.config.console import is_command
from common.config.errors import RunError, UserError, one_line
from common.config.schema import Config
from common.config.secrets import find_secrets, hide
from common.log import named_tensors
from common.log.console import DISK_ERRORS, add_log, own_log, setup_logger
from common.run import distributed
from common.run.seed import random_state_kept, seed_everything
from common.run.signals import ENDING, INTERRUPTED, SAVED, Interrupted, end_at_once, end_with_parent, handling
from common.run.strategy import SHARDED, WHOLE, Strategy, choose_device, choose_strategy, gpu_numbers, make_strategy
from common.state.experiment import leave_experiment, open_experiment

OpenFolder = Callable[[Config], tuple[Path, Path | None]]
_runs = itertools.count()  # of this process
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")


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
    nobody has started them, a ``command`` starts them, waits, and exits as they do. ``open_folder`` finds or makes the
    run's folder on rank 0: ``open_experiment`` or ``open_results``.

    A command's exit code: 0, done; 1, an error, of which a RunError is shown as one line and any other with its
    traceback; 2, a UserError, one line; 75, interrupted by SIGTERM, SIGUSR1 or SIGHUP and saved, to be started again;
    130, interrupted by Ctrl-C. Elsewhere errors are raised, on every rank, and the process is left as it was: its
    random numbers, signal handlers, log, environment and torch's settings.
    """
    secrets, neighbors = find_secrets(asdict(config)), []
    with process_kept(), own_log(), handling(end_at_once), ExitStack() as stack:
        setup_logger(secrets=secrets)
        try:
            name, device = _take_place(config, stack)
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
                add_log("".join(traceback.format_exception(error)), "DEBUG")  # to the file
                named = _name_failure(error, secrets)
                distributed.let_threads_rest()
                if is_command():
                    stack.pop_all()  # the others are to hear of this process only when it has said why it ends
                    _end_by(named, secrets, neighbors if _describe_broken_group(error) else [])
            if named is error:
                raise
            raise named from error
        except Interrupted as end:
            add_log(f"ended by {end.name}, exit code {end.code}", "WARNING")
            raise
        finally:
            leave_experiment()


def _take_place(config: Config, stack: ExitStack) -> tuple[str, torch.device]:
    """Return the strategy's name and this process's device; ``stack`` undoes what this and the run change."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM)
    adopt_slurm()
    name = _choose_processes(config)
    device = choose_device(config.gpu_ids, one_process=name == "dp")
    if device.type == "cuda":
        stack.enter_context(torch.cuda.device(device))
    stack.enter_context(random_state_kept())
    if config.trainer.compile and not is_command():
        stack.callback(torch.compiler.reset)  # whose store of compiled code would fill up
    stack.callback(_leave_group)
    return name, device


def _choose_processes(config: Config) -> str:
    """Return the name of the strategy; where several processes are wanted, start them and exit as they do."""
    started, wanted = int(os.environ.get("WORLD_SIZE", 0)), wanted_processes(config)
    name, gpus = choose_strategy(config.dist, started or wanted), torch.cuda.device_count()
    if max(gpu_numbers(config.gpu_ids), default=-1) >= gpus:
        raise UserError(f"--gpu_ids {config.gpu_ids}: found {gpus} GPUs; -1 means the CPU")
    if not started and wanted > 1:
        if not is_command():
            way = f"run a script by torchrun --standalone --nproc_per_node {wanted}"
            raise UserError(f"dist.nproc, gpu_ids: only a command starts several processes, found {wanted}; {way}")
        sys.exit(start_processes(wanted, config.dist.timeout))
    return name


def wanted_processes(config: Config) -> int:
    """Return how many processes a config asks for on this machine."""
    gpus = 1 if config.dist.strategy == "dp" else len(gpu_numbers(config.gpu_ids))
    return config.dist.nproc or gpus or 1


def start_processes(count: int, grace: int) -> int:
    """Run this very command in ``count`` processes on this machine, as ``torchrun --standalone`` does.

    A signal is passed on to all, which then have ``grace`` seconds to save and leave; if one fails, the others end,
    too. Returns the exit code of the run: that of the first process that failed.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    options = ["--standalone", f"--nproc-per-node={count}", f"--shutdown-timeout={grace}", "--no-python"]
    signals = ",".join(signal.Signals(number).name for number in [*ENDING, signal.SIGQUIT])
    options += [f"--signals-to-handle={signals}", sys.executable, *sys.orig_argv[1:]]
    disabled = logging.root.manager.disable
    logging.disable()  # the processes speak for themselves
    try:
        torchrun.run(torchrun.get_args_parser().parse_args(options))
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode < 0:
            name = signal.Signals(-first.exitcode).name
            print(f"rank {first.local_rank}: the process (pid {first.pid}) was ended by {name}", file=sys.stderr)
        return max(first.exitcode, 1)
    except SignalException as end:
        return INTERRUPTED if end.sigval == signal.SIGINT else SAVED
    finally:
        logging.disable(disabled)
    return 0


def adopt_slurm() -> None:
    """Translate Slurm's variables for torch, if ``srun`` started this process as one of several.

    All meet at the first node, at a port that follows from the job's number, so that the jobs of an array differ.
    """
    given = os.environ
    if "WORLD_SIZE" in given or int(given.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return
    if not given.get("MASTER_ADDR"):
        command = ["scontrol", "show", "hostnames", given.get("SLURM_STEP_NODELIST", "")]
        try:
            hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"{' '.join(command)}: {error}; set MASTER_ADDR to the first node") from None
        given["MASTER_ADDR"] = hosts[0]
    given.setdefault("MASTER_PORT", str(20000 + int(given.get("SLURM_JOB_ID", 0)) % 20000))
    each = re.findall(r"(\d+)(?:\(x(\d+)\))?", given["SLURM_STEP_TASKS_PER_NODE"])  # of 2(x3),1
    counts = [count for count, times in each for _ in range(int(times or 1))]
    given["LOCAL_WORLD_SIZE"] = counts[int(given.get("SLURM_NODEID", 0))]
    for name, source in {"WORLD_SIZE": "STEP_NUM_TASKS", "RANK": "PROCID", "LOCAL_RANK": "LOCALID"}.items():
        given[name] = given[f"SLURM_{source}"]


def start_process_group(config: Config, device: torch.device, strategy: str) -> list[int]:
    """Join the other processes of the run, and return the process ids of those on this machine."""
    backend = config.dist.backend or ("nccl" if device.type == "cuda" else "gloo")
    timeout = timedelta(seconds=config.dist.timeout)
    with handling(None):
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
            # torchrun keeps one store, old addresses still in it, for all our runs, and on one machine all restarts.
            is_alone = os.environ.get("LOCAL_WORLD_SIZE") == str(size)
            restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0) if is_alone else 0
            store = dist.PrefixStore(f"{restarts}.{next(_runs)}", store)
            dist.init_process_group(backend, timeout=timeout, store=store, rank=rank, world_size=size)
        elif strategy in SHARDED:  # these need a group even of one
            dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1)
    here = socket.gethostname(), os.getpid()
    return [process for host, process in distributed.gather(here) if host == here[0] and process != here[1]]


def _open_on_rank_0(open_folder: OpenFolder, config: Config) -> tuple[Path, Path | None]:
    """Open the folder on rank 0 and return the result on every rank, or raise its UserError, in a command once."""
    is_first = distributed.get_rank() == 0
    try:
        outcome = open_folder(config) if is_first else None
    except UserError as error:
        outcome = error
    except OSError as error:
        outcome = UserError(f"{error.filename or config.name}: {error.strerror}")
    outcome = distributed.broadcast(outcome)
    if isinstance(outcome, UserError):
        if is_first or not is_command():
            raise outcome
        raise SystemExit(outcome.exit_code)
    return outcome


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc keep freed memory, which halves the time of a mid-size step on a CPU, or return it as by default."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if not hasattr(libc, "mallopt"):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    libc.mallopt(mmap_threshold, 1 << 25 if keep else 1 << 17)  # the most that every glibc accepts
    libc.mallopt(trim_threshold, (1 << 31) - 1 if keep else 1 << 17)
    if not keep:
        libc.malloc_trim(0)


@contextmanager
def process_kept() -> Iterator[None]:
    """Put back what a run sets in its process: the environment, torch's switches, the handler of a child's exit."""
    environment, benchmark = dict(os.environ), torch.backends.cudnn.benchmark
    mode = torch.get_deterministic_debug_mode()
    child_exit = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
        named_tensors.clear()
        if child_exit is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, child_exit)
        if not is_command():
            gc.collect()  # the parts of a trainer refer to each other
            keep_freed_memory(False)


def _leave_group() -> None:
    distributed.let_threads_rest()
    if dist.is_initialized():
        dist.destroy_process_group()
    distributed.share_samples(1)


def _name_failure(error: Exception, secrets: set[str]) -> Exception:
    """Return a RunError for a broken group or a disk, any other error as it is; those for people show no secrets."""
    text = _describe_broken_group(error)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        text = f"{error.filename or 'a file'} cannot be read or written: {error.strerror}"
    if text:
        return RunError(hide(text, secrets))
    if isinstance(error, UserError):
        error.args = tuple(hide(f"{part}", secrets) for part in error.args)
    return error


def _end_by(error: Exception, secrets: set[str], neighbors: list[int]) -> None:
    """End a command by an error, which it shows with its rank: one that is meant for people as one line.

    Of ``neighbors``, which wait for this process in vain, those on this machine are ended, too.
    """
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", 1)) > 1 else ""
    start = f"{Path(sys.argv[0]).name}: {rank}"
    if isinstance(error, UserError):
        print(f"{start}error: {error}", file=sys.stderr, flush=True)
        # Those on this machine that hang or are stopped get a second in which to leave by themselves.
        for number, seconds in ((signal.SIGCONT, 1.0), (signal.SIGKILL, 0.0)) if neighbors else ():
            for process in neighbors:
                with suppress(OSError):
                    os.kill(process, number)
            time.sleep(seconds)
        sys.exit(error.exit_code)
    if rank:
        print(f"{start}{type(error).__name__}:", file=sys.stderr)
    if secrets:
        sys.excepthook = lambda kind, error, frames: print(
            hide("".join(traceback.format_exception(error)), secrets), end="", file=sys.stderr
        )
    raise error


def _describe_broken_group(error: BaseException) -> str | None:
    """Return what an error says of the other processes, if it was raised by a collective."""
    text = " ".join(str(error).split())
    if not isinstance(error, RuntimeError) or not (isinstance(error, dist.DistError) or "gloo" in text):
        return None
    if "EADDRINUSE" in text:
        return f"port {os.environ.get('MASTER_PORT')} is taken on this machine; set MASTER_PORT to another"
    if "imed out" in text or "timeout" in text:
        return "another process did not answer for dist.timeout seconds: it hangs, or had fewer batches than this one"
    return f"another process has ended, and its own message says why, or it cannot be reached ({text[:120]})"


def explain(error: BaseException, doing: str, batch_size_key: str) -> BaseException:
    """Return a RunError that names a failure of the machine or of the data; any other error as it is.

    ``doing`` is what the run was at, such as ``epoch 3 iteration 17``; ``batch_size_key`` lowers the memory used there.
    """
    text, short, frames = str(error), one_line(error), traceback.extract_tb(error.__traceback__)
    if "RunError: " in text and "Original Traceback" in text:  # from a loader's worker, which wraps it
        return RunError(f"{doing}: {text.rsplit('RunError: ', 1)[1].strip()}")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in text for words in _NO_MEMORY):
        way_out = f"lower {batch_size_key}, for the same steps with a higher trainer.accumulate"
        return RunError(f"{doing}: out of memory ({short}); {way_out}, or set trainer.precision to bf16")
    if isinstance(error, IndexError) and "Target " in text and "out of bounds" in text:
        key = batch_size_key.removesuffix(".batch_size")
        return RunError(f"{doing}: a label in a batch of {key} is none of the model's classes ({short})")
    # What a worker's end looks like depends on what it was at: torch sees it, or the line to it breaks.
    broken = isinstance(error, (ConnectionError, EOFError)) and any("multiprocessing" in f.filename for f in frames)
    if broken or (isinstance(error, RuntimeError) and "DataLoader worker" in text):
        cause = "most often because memory ran out: lower worker, or set it to 0 to see what happens"
        return RunError(f"{doing}: a process that loads data died ({short}); {cause}")
    return error
