"""A real Slurm cluster for a test: several nodes on this one machine, gone when the test ends.

Debian's packages slurmctld, slurmd and slurm-client are all it needs; there is no systemd, no munge and no cgroup. The
nodes' names are known to what the cluster starts alone, through an ``/etc/hosts`` in a mount namespace of its own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "unshare")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def why_not() -> str | None:
    """Return what a cluster lacks on this machine, or None if one can be started."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        return f"Slurm is not installed: no {', '.join(missing)}"
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        return "a Slurm cluster of several nodes on one machine needs root, and a mount namespace"
    return None


class Cluster:
    """A cluster, up inside the ``with``.

    A partition ``urgent`` pre-empts the jobs of the default one, which then have ten seconds to leave.

    Args:
        folder: An empty folder for its state and logs.
        nodes: How many nodes, ``node1`` and so on, of two CPUs each.
    """

    def __init__(self, folder: Path, nodes: int = 2):
        self._folder, self._names = folder, [f"node{i + 1}" for i in range(nodes)]
        self.environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Cluster:
        for name in ("state", "spool", *(f"spool/{node}" for node in self._names)):
            (self._folder / name).mkdir()
        hosts = Path("/etc/hosts").read_text() + "".join(f"127.0.0.1 {node}\n" for node in self._names)
        (self._folder / "hosts").write_text(hosts)
        (self._folder / "slurm.conf").write_text(self._settings())
        self._start("slurmctld", "-D", "-c")
        for node in self._names:
            self._start("slurmd", "-D", "-N", node)
        try:
            self.wait(
                lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split() == ["idle"] * len(self._names)
            )
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.run("scancel", "--full", "--signal=KILL", "--user=root", check=False)
        self.run("scancel", "--user=root", check=False)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def run(self, *command: str, check: bool = True, **options: object) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(command, env=self.environment, text=True, capture_output=True, **options)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    def submit(self, *args: str, cwd: Path) -> str:
        """Submit a job and return its number."""
        return self.run("sbatch", "--parsable", *args, cwd=cwd).strip()

    def describe(self, job: str) -> dict[str, str]:
        """Return what Slurm says of a job, by its own names."""
        words = self.run("scontrol", "show", "job", job, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, reached: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something is so.

        Raises:
            AssertionError: It is not so after that time, or one of the daemons died; with the end of their logs.
        """
        end = time.monotonic() + seconds
        while not reached():
            dead = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > end:
                logs = "\n".join(log.read_text()[-1500:] for log in sorted(self._folder.glob("*.log")))
                raise AssertionError(f"not reached in {seconds} s, dead: {dead}, jobs:\n{self.run('squeue')}\n{logs}")
            time.sleep(0.2)

    def _start(self, *command: str) -> None:
        overlay = 'mount --bind "$0/hosts" /etc/hosts && exec "$@"'
        with (self._folder / f"{command[-1]}.out").open("w") as log:
            self._daemons.append(
                subprocess.Popen(
                    ["unshare", "--mount", "sh", "-c", overlay, str(self._folder), *command],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _settings(self) -> str:
        sockets = [socket.socket() for _ in (None, *self._names)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        host, folder = socket.gethostname(), self._folder
        settings = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": ports[0],
            "SlurmUser": "root",
            "AuthType": "auth/none",
            "CredType": "cred/none",
            "AuthInfo": "cred_expire=5",  # otherwise a job that is queued again waits two minutes
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": f"{folder}/spool/%n",
            "SlurmctldPidFile": folder / "slurmctld.pid",
            "SlurmdPidFile": f"{folder}/%n.pid",
            "SlurmctldLogFile": folder / "slurmctld.log",
            "SlurmdLogFile": f"{folder}/%n.log",
            "SlurmctldParameters": "preempt_send_user_signal",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "MpiDefault": "none",
            "SwitchType": "switch/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerParameters": "bf_interval=2,sched_interval=2",
            "AccountingStorageType": "accounting_storage/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "ReturnToService": 2,
            "KillWait": 3,
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
        }
        lines = [f"{key}={value}" for key, value in settings.items()]
        for node, port in zip(self._names, ports[1:], strict=True):
            lines.append(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1024")
        nodes = ",".join(self._names)
        lines.append(f"PartitionName=main Nodes={nodes} Default=YES State=UP PriorityTier=1 GraceTime=10")
        lines.append(f"PartitionName=urgent Nodes={nodes} State=UP PriorityTier=10 PreemptMode=OFF")
        return "\n".join(lines) + "\n"
