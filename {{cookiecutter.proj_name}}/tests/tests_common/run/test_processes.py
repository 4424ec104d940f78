"""Several processes from one command; what becomes of them is in the engine's tests."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from common.config.errors import UserError
from common.config.schema import DistConfig
from common.run.launch import adopt_slurm, wanted_processes
from tests.tests_common.engine import toy

STEP = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "n[1-3]",
    "SLURM_JOB_ID": "40123",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


class TestSlurm(unittest.TestCase):
    """From Slurm's variables to torch's."""

    def adopt(self, scontrol="echo n1; echo n2; echo n3", **variables):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "scontrol"
            program.write_text(f"#!/bin/sh\n{scontrol}\n")
            program.chmod(0o755)
            with mock.patch.dict(os.environ, {"PATH": f"{folder}:/bin:/usr/bin", **variables}, clear=True):
                adopt_slurm()
                return {name: value for name, value in os.environ.items() if name not in ("PATH", *variables)}

    def test_a_task_of_several(self):
        expected = {
            "MASTER_ADDR": "n1",
            "MASTER_PORT": "20123",
            "WORLD_SIZE": "5",
            "RANK": "3",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "2",
        }
        self.assertEqual(self.adopt(**STEP), expected)
        self.assertEqual(self.adopt(**{**STEP, "SLURM_NODEID": "2"})["LOCAL_WORLD_SIZE"], "1")

    def test_jobs_have_ports_of_their_own(self):
        ports = {self.adopt(**{**STEP, "SLURM_JOB_ID": str(job)})["MASTER_PORT"] for job in range(70, 90)}
        self.assertEqual(len(ports), 20)

    def test_not_in_a_step_of_several(self):
        for variables in ({}, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}, {**STEP, "WORLD_SIZE": "2"}):
            self.assertEqual(self.adopt(**variables), {})

    def test_no_names_of_nodes(self):
        with self.assertRaisesRegex(UserError, r"scontrol show hostnames n\[1-3\]: .*set MASTER_ADDR"):
            self.adopt(scontrol="exit 1", **STEP)
        self.assertEqual(self.adopt(scontrol="exit 1", **STEP, MASTER_ADDR="n9")["RANK"], "3")


class TestWanted(unittest.TestCase):
    """How many processes a config asks for."""

    def test_by_devices_or_by_number(self):
        for count, keys, dist in (
            (1, {}, {}),
            (1, {"gpu_ids": -1}, {}),
            (1, {"gpu_ids": 3}, {}),
            (4, {"gpu_ids": "0,1,2,3"}, {}),
            (2, {"gpu_ids": [0, 1]}, {}),
            (2, {"gpu_ids": -1}, {"nproc": 2}),
            (1, {"gpu_ids": "0,1"}, {"strategy": "dp"}),
        ):
            with self.subTest(keys=keys, dist=dist):
                self.assertEqual(wanted_processes(toy.make_config(**keys, dist=DistConfig(**dist))), count)
