"""Several processes from one command: started here, on this machine, or by Slurm."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import uuid

from common.config.errors import UserError
from common.run.signals import INTERRUPTED, SAVED

_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def start_processes(count: int, grace: int) -> int:
    """Run this very command in several processes on this machine, as ``torchrun --standalone`` does.

    A signal is passed on to each of them. If one fails, the others end, too.

    Args:
        count: Number of processes.
        grace: Seconds that they have after a signal to save and leave.

    Returns:
        The exit code of the run: that of the first process that failed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    disabled = logging.root.manager.disable
    logging.disable()  # the processes speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle=_SIGNALS,
        shutdown_timeout=grace,
    )
    try:
        elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode < 0:
            name = signal.Signals(-first.exitcode).name
            print(f"rank {first.local_rank}: the process (pid {first.pid}) was ended by {name}", file=sys.stderr)
        return first.exitcode if first.exitcode > 0 else 1
    except SignalException as end:
        return INTERRUPTED if end.sigval == signal.SIGINT else SAVED
    finally:
        logging.disable(disabled)
    return 0


def adopt_slurm() -> None:
    """Translate Slurm's variables for torch, if ``srun`` started this process as one of several.

    All meet at the first node, at a port that follows from the job's number, so that the jobs of an array differ.

    Raises:
        UserError: Slurm does not tell the names of the nodes.
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
