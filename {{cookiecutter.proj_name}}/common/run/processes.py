"""Several processes from one command: started here, on this machine, or by Slurm."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

from common.config.errors import UserError
from common.run.signals import INTERRUPTED, SAVED


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
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    disabled = logging.root.manager.disable
    logging.disable()  # the processes speak for themselves
    try:
        command = [sys.executable, *sys.orig_argv[1:]]
        torchrun.run(torchrun.get_args_parser().parse_args([*options, signals, *command]))
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
    get = os.environ.get
    if "WORLD_SIZE" in os.environ or int(get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return
    os.environ |= {
        "MASTER_ADDR": get("MASTER_ADDR") or _first_node(get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": get("MASTER_PORT", str(20000 + int(get("SLURM_JOB_ID", 0)) % 20000)),
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": _tasks_here(os.environ["SLURM_STEP_TASKS_PER_NODE"], int(get("SLURM_NODEID", 0))),
    }


def _first_node(nodes: str) -> str:
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"{' '.join(command)}: {error}; set MASTER_ADDR to the first node") from None


def _tasks_here(counts: str, node: int) -> str:
    """Return how many tasks a node has, from Slurm's ``2(x3),1``."""
    every: list[str] = []
    for part in counts.split(","):
        count, _, times = part.rstrip(")").partition("(x")
        every += [count] * int(times or 1)
    return every[node]
