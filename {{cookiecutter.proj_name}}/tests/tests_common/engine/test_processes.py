"""Training on two real processes, started by torchrun."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from common.state.file import read_checkpoint, read_plain
from tests import slow
from tests.compare import differences

PROJECT = Path(__file__).parents[3]

# Each rank trains, then leaves the weights it ended with.
SCRIPT = """
    import sys
    import torch
    from common.run.distributed import get_rank
    from common.config.console import command
    from common.run.launch import launch
    from tests.tests_common.engine import test_several_optimizers as gan
    from tests.tests_common.engine import toy
    from dataclasses import replace

    kind, folder = sys.argv[1:]
    names = ["main"]
    if kind == "gan":
        config, trainer_class, names = gan.make_config(accumulate=2, batch_size=4), gan.GANEpochTrainer, list(gan.NAMES)
        keys = {}
    else:
        config = toy.make_config({"accumulate": 3}, {"clip_gradients": 0.5}, {"iter_loss": 1}, batch_size=2)
        trainer_class, keys = toy.ToyEpochTrainer, {"dtype": torch.float64, "samples": 28}
    config = replace(config, gpu_ids=-1, name="run", dir=replace(config.dir, expr_dir=folder))
    with command(), launch(config) as session:
        trainer = trainer_class(config, session, seed=get_rank(), **keys)
        if kind == "toy":  # batch-norm's statistics are a rank's own until they are made equal
            trainer.model[1] = torch.nn.BatchNorm1d(3, dtype=torch.float64)
        trainer.run()
        torch.save({name: toy.weights_of(trainer, name) for name in names}, f"{folder}/rank{get_rank()}.pt")
"""


# The run is cut by a signal to one rank; each rank has workers, and a window and its gradients of its own.
CUT = """
    import os, signal, sys
    from dataclasses import replace
    from common.run.distributed import get_rank
    from common.config.console import command
    from common.run.launch import launch
    from tests.tests_common.engine import rich

    name, folder, cut = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = rich.make_config("epoch", accumulate=3, worker=1, batch_size=4, name=name, resume="auto")
    config = replace(config, dir=replace(config.dir, expr_dir=folder))

    class Cut(rich.RichEpochTrainer):
        def after_train_step(self, *_):
            if self.total_iterations + 1 == cut and get_rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with command(), launch(config) as session:
        Cut(config, session).run()
"""


class ProcessesTest(unittest.TestCase):
    """Scripts on several processes, in a folder of the test's own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def run_script(self, script, *args, expect=0, ranks=2):
        (self.folder / "script.py").write_text(textwrap.dedent(script))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        command += [str(self.folder / "script.py"), *args]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done


class TestTwoProcesses(ProcessesTest):
    """One log, one set of files, the same weights on both ranks."""

    def train(self, kind):
        folder = self.folder
        done = self.run_script(SCRIPT, kind, str(folder))
        first, second = (read_plain(folder / f"rank{rank}.pt") for rank in (0, 1))
        for name, weights in first.items():
            self.assertTrue(weights.equal(second[name]), name)
        return folder / "run", done.stderr

    def test_one_model(self):
        folder, console = self.train("toy")
        self.assertEqual(console.count("epoch 1 | val |"), 1)
        self.assertEqual(len(list((folder / "event").iterdir())), 1)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        # 28 samples in batches of 2 on each of 2 ranks make 7 iterations.
        self.assertEqual([line["step"] for line in lines if line["split"] == "train"], list(range(1, 15)))
        self.assertEqual(sorted(read_checkpoint(folder / "checkpoints" / "final.pt")["random"]), [0, 1])

    @slow
    def test_two_optimizers(self):
        self.train("gan")

    @slow
    def test_a_signal_to_one_rank_cuts_all_and_they_go_on_exactly(self):
        self.run_script(CUT, "whole", str(self.folder), "0")
        # torchrun's own exit code is 1, whatever that of the ranks is.
        done = self.run_script(CUT, "cut", str(self.folder), "20", expect=1)
        self.assertIn("SIGTERM came: saved after", done.stderr)
        self.run_script(CUT, "cut", str(self.folder), "0")
        self.assertEqual(list(differences(self.folder / "whole", self.folder / "cut")), [])
