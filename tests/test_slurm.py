"""``sbatch scripts/slurm.sh`` from a fresh project, on a real cluster of two nodes."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import bake
from slurm_cluster import Cluster, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

FLAGS = ["--gpu_ids", "-1", "--progress.epoch", "120", "--progress.epoch_val", "10", "--checkpoint.keep_last", "1"]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes; Slurm's paths are to be short."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, Cluster(Path(folder)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A fresh project."""
    return bake(tmp_path_factory.mktemp("bakes"))


def submit(cluster, project, name, *options):
    """Train on two nodes; return the job's number."""
    return cluster.submit(*options, "scripts/slurm.sh", *FLAGS, "--name", name, cwd=project)


def is_training(project, name):
    """Return whether a run has come some way."""
    log = project / "experiments" / name / "metrics.jsonl"
    return log.exists() and log.read_text().count("\n") > 20


def ends_equal(cluster, project, job, name):
    """Wait for the end of a job and compare its run with the one that nothing cut."""
    cluster.wait(lambda: cluster.describe(job)["JobState"] not in ("RUNNING", "PENDING", "COMPLETING", "REQUEUED"))
    said = "".join(file.read_text() for file in sorted(project.glob(f"slurm-{job}*.out")))
    assert cluster.describe(job)["JobState"] == "COMPLETED", said
    code = "import sys; from pathlib import Path; from tests.compare import differences; "
    code += "print(*differences(*map(Path, sys.argv[1:])), sep='\\n')"
    folders = [str(project / "experiments" / run) for run in ("whole", name)]
    done = subprocess.run([sys.executable, "-c", code, *folders], cwd=project, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr + said
    return said


@pytest.fixture(scope="module")
def whole(cluster, project):
    """The run that nothing cuts; the port that follows from its job's number is taken."""
    with socket.socket() as taken:
        with suppress(OSError):  # another program has it
            taken.bind(("", 20001))
            taken.listen()
        job = submit(cluster, project, "whole")
        ends_equal(cluster, project, job, "whole")
    return job


def test_two_nodes_train_one_model(cluster, project, whole):
    said = (project / f"slurm-{whole}-rank0.out").read_text()
    assert "device       cpu x 2" in said and said.count("epoch 119 | val |") == 1
    assert (project / f"slurm-{whole}-rank1.out").read_text() == ""
    assert cluster.describe(whole)["NumNodes"] == "2"
    lines = (project / "experiments/whole/metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line).get("accuracy", 0) for line in lines) > 0.95


def test_the_signal_before_the_end_of_the_time(cluster, project, whole):
    job = submit(cluster, project, "cut", "--time=60")
    cluster.wait(lambda: is_training(project, "cut"))
    cluster.run("scancel", "--signal=USR1", job)  # what --signal sends, but at once: Slurm looks every half minute
    said = ends_equal(cluster, project, job, "cut")
    assert "SIGUSR1 came: saved" in said and int(cluster.describe(job)["Restarts"]) >= 1, said


def test_another_job_comes_first(cluster, project, whole):
    job = submit(cluster, project, "pre-empted")
    cluster.wait(lambda: is_training(project, "pre-empted"))
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 1", cwd=project)
    cluster.wait(lambda: cluster.describe(urgent)["JobState"] == "COMPLETED")
    said = ends_equal(cluster, project, job, "pre-empted")
    assert "came: saved" in said and int(cluster.describe(job)["Restarts"]) >= 1, said


def test_outside_the_project(cluster, project):
    job = cluster.submit(str(project / "scripts/slurm.sh"), cwd=project / "scripts")
    cluster.wait(lambda: cluster.describe(job)["JobState"] == "FAILED")
    assert "has no train.py" in (project / "scripts" / f"slurm-{job}.out").read_text()
    assert os.listdir(project / "scripts").count("experiments") == 0
