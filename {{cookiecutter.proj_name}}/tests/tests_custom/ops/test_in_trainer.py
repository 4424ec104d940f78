"""An operator inside a model that is trained: mixed precision, compiled, on two processes."""

import os
import subprocess
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path

from tests.tests_custom.ops.cases import needs_built

PROJECT = Path(__file__).parents[3]

SCRIPT = """
    import sys
    from dataclasses import replace
    import torch
    from torch import nn
    from common.run.launch import launch
    from common.optim.build import build_optimizer
    from custom.ops.func import ScaleShiftReLU, add_matrix
    from tests.tests_common.engine import toy

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.last = nn.Linear(4, 8), ScaleShiftReLU(8), nn.Linear(8, 1)

        def forward(self, x):
            hidden = self.relu(self.first(x))
            return self.last(add_matrix(hidden, hidden))

    class Trainer(toy.ToyEpochTrainer):
        def __init__(self, config, session):
            super().__init__(config, session)
            self.register_model(Net())
            self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))

    precision, compiled, folder = sys.argv[1:]
    config = toy.make_config(
        {"precision": precision, "compile": compiled == "compiled"}, {"type": "AdamW", "lr": 0.02}, {"epoch": 12}
    )
    config = replace(config, gpu_ids=-1, name="run", batch_size=4, dir=replace(config.dir, expr_dir=folder))
    with launch(config) as session:
        trainer = Trainer(config, session)
        before = trainer.model.relu.scale.detach().clone()
        trainer.run()
        errors = [line["error"] for line in __import__("tests.compare").compare.metrics_of(session.folder)
                  if line["split"] == "val"]
        assert errors[-1] < errors[0] / 2, errors
        assert not torch.equal(trainer.models["main"].state_dict().popitem()[1], before)
"""


@needs_built("add_matrix", "scale_shift_relu")
class TestInTrainer(unittest.TestCase):
    """The loss falls."""

    def train(self, *args, processes=1):
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "script.py"
            script.write_text(textwrap.dedent(SCRIPT))
            start = [sys.executable]
            if processes > 1:
                start += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
            environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
            done = subprocess.run(
                [*start, str(script), *args, folder],
                env={**environment, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_mixed_precision_on_two_processes(self):
        self.train("bf16", "eager", processes=2)

    def test_compiled(self):
        self.train("bf16", "compiled")
