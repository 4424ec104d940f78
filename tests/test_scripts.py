"""When ``scripts/slurm.sh`` queues a job again, by a false ``srun`` and ``scontrol``; test_slurm has a real cluster."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "{{cookiecutter.proj_name}}" / "scripts" / "slurm.sh"


@pytest.fixture
def turn(tmp_path):
    """Return a function that runs the script once, as a job whose training says something and ends by a code."""
    (tmp_path / "train.py").touch()
    programs = tmp_path / "programs"
    programs.mkdir()
    said = 'eval "echo $1 says: $2" >> slurm-7-rank0.out'
    for name, text in {
        "srun": f'set -- "$(sed -n 1p turn)" "$(sed -n 2p turn)"; sed -i 1,2d turn; {said}; exit "$1"',
        "scontrol": 'echo "$@" >> requeued',
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)

    def run(*turns):
        """Take pairs of a code and what rank 0 says; return the script's code, and whether the job is queued again."""
        (tmp_path / "turn").write_text("".join(f"{code}\n{text}\n" for code, text in turns))
        (tmp_path / "requeued").unlink(missing_ok=True)
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        done = subprocess.run(["bash", str(SCRIPT)], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (tmp_path / "turn").read_text() == "", "not every training was started"
        return done.returncode, (tmp_path / "requeued").exists()

    return run


def test_ends_that_are_no_cut_are_not_queued_again(turn):
    for code in (0, 1, 2, 130):
        assert turn((code, "the end")) == (code, False)


def test_queued_again_as_long_as_it_comes_further(turn):
    for place in (3, 8, 8, 8, 9, 9, 9):
        assert turn((75, f"saved after epoch 0 iteration {place}\\; resume")) == (75, True)
    assert turn((75, "saved after epoch 0 iteration 9\\; resume")) == (75, False)


def test_nothing_saved_three_times(turn):
    assert [turn((138, "nothing"))[1] for _ in range(3)] == [True, True, False]


def test_a_port_that_is_taken_is_tried_once_more(turn):
    taken = (1, "train.py: error: port $MASTER_PORT is taken on this machine")
    assert turn(taken, (0, "done")) == (0, False)
    assert turn(taken, taken) == (1, False)
