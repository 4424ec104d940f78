"""A disk that is full from some moment on, and a folder that is deleted: codes and last lines tell what is there."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from common.state.file import find_fault
from tests import campaign_of
from tests.compare import differences
from tests.tests_common.processes import PROJECT

# A run that writes all that a run can write. From some moment on, which may pass, something else fills the disk.
SCRIPT = """
    import os, shutil, sys, threading, time
    from contextlib import suppress
    from dataclasses import replace
    from pathlib import Path
    import torch
    from matplotlib.figure import Figure
    from common.config.schema import DistConfig
    from common.engine import BatchTester
    from common.run.distributed import get_rank
    from common.config.console import command
    from common.run.launch import launch
    from tests.tests_common.engine import rich, toy

    folder, name, ranks, after, lasts, left = *sys.argv[1:3], *map(float, sys.argv[3:])

    def fill():
        time.sleep(after)
        with suppress(OSError), open(f"{folder}/filler", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16 if shutil.disk_usage(folder).free > 1 << 17 else 64))
        with open(f"{folder}/filler", "rb+") as file:
            file.truncate(max(0, os.stat(f"{folder}/filler").st_size - int(left)))
        if lasts:
            time.sleep(lasts)
            os.unlink(f"{folder}/filler")

    class Tester(BatchTester):
        def test_step(self, iteration, data_dict):
            return {"y": self.model(data_dict["x"])}

        def eval_step(self, iteration, data_dict, output_dict):
            return {"y": output_dict["y"]}

        def after_test_epoch(self, summary_dict):
            if get_rank() == 0:
                Figure().savefig(self.folder / "figure.png")

    class Writing(rich.RichEpochTrainer):
        def __init__(self, config, session):
            super().__init__(config, session)
            self.register_model(torch.nn.Sequential(torch.nn.Linear(4, 2000), torch.nn.Linear(2000, 1)))
            self.register_optimizer(rich.build_optimizer(config.optim, self.parameter_groups(self.model)))
            self.register_scheduler(rich.build_scheduler(config.optim, self.optimizer, self.schedule_length))
            tester = Tester(config, session)
            tester.register_model(self.forms.bare["main"])
            tester.register_loader(self.val_loader)
            self.register_tester(tester)

        def before_train_epoch(self, epoch):
            super().before_train_epoch(epoch)
            if epoch == 0 and self.iteration == 0 and after >= 0 and get_rank() == 0:
                threading.Thread(target=fill, daemon=True).start()

        def after_train_step(self, *_):
            time.sleep(0.005)
            if lasts < 0 and self.total_iterations == 20 and get_rank() == 0:
                self.checkpointer.wait()
                shutil.rmtree(self.session.folder)

        def render_progress_imgs(self, data_dict, output_dict):
            return {"x": torch.linspace(0, 1, 4800).reshape(3, 40, 40)}

    progress = {"epoch": 5, "epoch_eval": 1, "iter_loss": 1, "save_progress": True, "local_progress": True}
    config = rich.make_config(
        progress={**progress, "save_progress_val": True, "epoch_save_checkpoint": 1},
        name=name, resume="auto", dist=DistConfig(nproc=int(ranks), timeout=60),
    )
    with command(), launch(replace(config, dir=replace(config.dir, expr_dir=folder))) as session:
        Writing(config, session).run()
"""


class TestFullDisk(unittest.TestCase):
    """A small file system of its own, for which one must be root."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.script = self.folder / "script.py"
        self.script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")

    def make_disk(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
        if os.name != "posix" or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            self.skipTest("cannot mount a small disk")
        self.addCleanup(subprocess.run, ["umount", "-l", str(disk)])
        return disk

    def run_script(self, folder, name, ranks=1, after=-1.0, lasts=0.0, left=0):
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(self.script), str(folder), name, *map(str, (ranks, after, lasts, left))]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)

    def test_the_truth_is_told_and_a_resume_is_exact(self):
        draw, whole, cases = random.Random(0), {}, []
        for seed in range(30):
            lasts, left = draw.choice([0, 0, draw.uniform(0.1, 1)]), draw.choice([0, 900, 9000])
            cases.append((2 if seed % 3 == 2 else 1, draw.uniform(0, 2.2), lasts, left))
        disk = self.make_disk()
        for ranks, after, lasts, left in campaign_of(cases, 15):
            with self.subTest(ranks=ranks, after=after, lasts=lasts, left=left):
                if ranks not in whole:
                    whole[ranks] = self.folder / f"whole{ranks}"
                    self.assertEqual(self.run_script(self.folder, f"whole{ranks}", ranks).returncode, 0)
                done = self.run_script(disk, "run", ranks, after, lasts, left)
                self.check_truth(done, disk / "run")
                (disk / "filler").unlink(missing_ok=True)
                if done.returncode:
                    resumed = self.run_script(disk, "run", ranks)
                    self.assertEqual(resumed.returncode, 0, resumed.stderr)
                    self.assertEqual(list(differences(whole[ranks], disk / "run")), [])
                shutil.rmtree(disk / "run")

    def check_truth(self, done, folder):
        """Compare what a run says with what it left behind."""
        final, said = folder / "checkpoints" / "final.pt", done.stderr
        self.assertIn(done.returncode, (0, 1), said)
        self.assertEqual(done.returncode == 0, final.exists() and find_fault(final) is None, said)
        self.assertEqual(done.returncode == 0, "final        " in said, said)
        if done.returncode:
            self.assertRegex(said.splitlines()[-1], "error: .*(could not be written|another process has ended)")
        for text in ("Traceback", "Logging error"):
            self.assertNotIn(text, said)
        self.assertLessEqual(said.count("what is recorded waits") + said.count("goes on without it"), 1, said)
        self.assertLessEqual(said.count("; training goes on\n"), 1, said)

    def test_a_folder_that_is_deleted(self):
        done = self.run_script(self.folder, "run", lasts=-1.0)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr.splitlines()[-1], "error: .*/run was deleted or moved during the run; .*latest.pt")
        self.assertIsNone(find_fault(self.folder / "run" / "checkpoints" / "latest.pt"))
        self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
