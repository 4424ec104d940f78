"""Runs from Python: as often as one likes in one process, errors are raised, and nothing is left behind."""

import contextlib
import gc
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from loguru import logger

from common.config import UserError, load_config
from common.config.errors import RunError
from common.config.schema import DistConfig
from common.log import named_tensors
from common.run.launch import launch
from common.run.signals import ENDING
from tests.compare import differences
from tests.tests_common.engine import rich, toy
from tests.tests_common.processes import PROJECT, run_script

# Five runs, of which two fail; each prints what came of it. Alone, a process makes only one of them.
FIVE = """
    import json, sys
    from dataclasses import replace
    from common.config.errors import UserError
    from common.run.launch import launch
    from tests.tests_common.engine import rich

    class Failing(rich.RichIterTrainer):
        def train_step(self, epoch, iteration, data_dict):
            if self.total_iterations == 5:
                raise ZeroDivisionError("in a step")
            return super().train_step(epoch, iteration, data_dict)

    def run(number, folder):
        keys = {"worker": 2 if number == 4 else 0, "name": f"run{number}"}
        config = rich.make_config("iter" if number % 2 else "epoch", accumulate=1 + number % 3, **keys)
        config = replace(config, dir=replace(config.dir, expr_dir=folder))
        if number == 1:
            config = replace(config, checkpoint=replace(config.checkpoint, best_metric="errror"))
        if number == 4:
            config = replace(config, trainer=replace(config.trainer, deterministic=True))
        try:
            with launch(config) as session:
                kind = Failing if number == 3 else rich.TRAINERS[config.trainer.mode]
                return kind(config, session).run()
        except (UserError, ZeroDivisionError) as error:
            return f"{type(error).__name__}: {error}"

    if __name__ == "__main__":
        print(json.dumps({number: run(number, sys.argv[1]) for number in map(int, sys.argv[2:])}))
"""
CELL = """
from common import UserError, launch, load_config
from tests.tests_common.engine import rich

results = []
for rate in ("0.1", "0.01", "-1"):
    try:
        flags = ["--gpu_ids", "-1", "--dir.expr_dir", folder, "--name", f"rate_{rate}", "--optim.lr", rate]
        flags += ["--progress.epoch", "1", "--checkpoint.best_metric", "error", "--checkpoint.best_larger", "false"]
        config = load_config(flags)
        with launch(config) as session:
            results.append(rich.RichEpochTrainer(config, session).run())
    except UserError as error:
        results.append(error)
"""
TWICE_ON_TWO_RANKS = """
    import sys
    import torch.distributed as dist
    from common.config.errors import RunError, UserError
    from common.run.launch import launch
    from tests.tests_common.processes import RegressionTrainer, make_config

    class Failing(RegressionTrainer):
        def after_train_step(self, *_):
            if self.total_iterations == 3:  # on all ranks: one alone keeps the others waiting for dist.timeout
                raise ZeroDivisionError("in a step")

    found = []
    for name, kind in (("a", RegressionTrainer), ("a", RegressionTrainer), ("b", Failing), ("c", RegressionTrainer)):
        try:
            config = make_config(sys.argv[1], name, 2, epoch=1)
            with launch(config) as session:
                found.append(kind(config, session).run())
        except (UserError, ZeroDivisionError) as error:
            found.append(error)
        assert not dist.is_initialized()
    assert found[0] == found[3] and found[0]["error"] == found[0]["best_error"], found
    assert type(found[1]) is UserError and "not overwritten" in str(found[1]), found
    assert isinstance(found[2], (RunError, ZeroDivisionError)), found
"""


def state():
    """Return what a run may change in its process."""
    return {
        "signals": [signal.getsignal(number) for number in [*ENDING, signal.SIGCHLD]],
        "random": [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()],
        "sinks": [re.sub("id=[0-9]+", "", f"{sink}") for sink in logger._core.handlers.values()],
        "patcher": logger._core.patcher,
        "threads": torch.get_num_threads(),
        "hook": sys.excepthook,
        "environment": dict(os.environ),
        "switches": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "precision": torch.get_float32_matmul_precision(),
        "anomaly": (torch.is_anomaly_enabled(), torch.is_grad_enabled()),
        "group": dist.is_initialized(),
        "streams": (sys.stdout, sys.stderr),
        "activations": {*named_tensors},
    }


class FolderTest(unittest.TestCase):
    """A folder of experiments, and runs in this process."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def config(self, name="run", **keys):
        config = rich.make_config(**{"progress": {"epoch": 1}, **keys}, name=name)
        return replace(config, dir=replace(config.dir, expr_dir=str(self.folder)))

    def run_one(self, config, trainer=rich.RichEpochTrainer):
        with launch(config) as session:
            return trainer(config, session).run()


class TestFive(FolderTest):
    """A script of five runs against five processes."""

    def run_script(self, name, *numbers):
        script = self.folder / "five.py"
        script.write_text(textwrap.dedent(FIVE))
        command = [sys.executable, str(script), str(self.folder / name), *map(str, numbers)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_the_same_bits_as_five_processes(self):
        together = self.run_script("together", *range(5))
        alone = {key: value for number in range(5) for key, value in self.run_script("alone", number).items()}
        self.assertEqual(together, alone)
        self.assertRegex(together["1"], "^UserError: .*'errror'.* did you mean 'error'")
        self.assertEqual(together["3"], "ZeroDivisionError: in a step")
        for number in ("0", "2", "4"):
            self.assertLessEqual(together[number]["best_error"], together[number]["error"])
            runs = [self.folder / name / f"run{number}" for name in ("alone", "together")]
            self.assertEqual(list(differences(*runs)), [])
            last = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()][-1]
            self.assertEqual((last["split"], last["error"]), ("val", together[number]["error"]))


class TestNotebook(FolderTest):
    """A cell: no file, and another program's command line."""

    def test_a_cell(self):
        cell, said = {"folder": str(self.folder), "__name__": "__main__"}, io.StringIO()
        self.addCleanup(sys.modules.update, {"__main__": sys.modules["__main__"]})
        sys.modules["__main__"] = type(sys)("__main__")
        argv = mock.patch.object(sys, "argv", ["/usr/lib/ipykernel_launcher.py", "-f", "kernel.json"])
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(PROJECT)
        with argv, contextlib.redirect_stderr(said):
            exec(compile(textwrap.dedent(CELL), "<cell>", "exec"), cell)
        good, fair, mistake = cell["results"]
        self.assertTrue({"loss", "error", "best_error"} <= good.keys() == fair.keys())
        self.assertNotEqual(good["error"], fair["error"])
        self.assertRegex(str(mistake), r"^--optim\.lr: expected .*, found")
        self.assertNotIn("Traceback", said.getvalue())
        self.assertIn("train.py --config", (self.folder / "rate_0.1" / "job.sh").read_text())


class TestState(FolderTest):
    """What is there after a run is what was there before."""

    def test_nothing_is_left_behind(self):
        class Failing(rich.RichEpochTrainer):
            def train_step(self, *arguments):
                named_tensors["x"] = torch.ones(1)
                os.environ["OF_A_RUN"] = "1"
                raise error

        sharded = {"dist": DistConfig(strategy="none")}
        keys = {"api_key": "canary", "type": "none"}
        error: BaseException | None = None
        deterministic = replace(self.config("c"), trainer=replace(self.config().trainer, deterministic=True))
        before = state()
        for config, error in (
            (self.config("a", worker=2), None),
            (deterministic, None),
            (self.config("d", dataset=replace(self.config().dataset, train=keys), **sharded), UserError("canary")),
            (self.config("e"), RunError("wrong")),
            (self.config("f"), ZeroDivisionError("wrong")),
            (self.config("f"), KeyboardInterrupt()),
            (self.config("a"), UserError("exists")),
        ):
            kind = Failing if error else rich.RichEpochTrainer
            with self.subTest(name=config.name, error=error):
                expected = self.assertRaises(type(error)) if error else contextlib.nullcontext()
                with expected as caught, contextlib.redirect_stderr(io.StringIO()):
                    self.run_one(config, kind)
                if error:
                    self.assertNotIn("canary", str(caught.exception))
                for name, value in state().items():
                    self.assertEqual(value, before[name], name)

    def test_sinks_of_others_stay_and_hear_it(self):
        said = []
        number = logger.add(said.append, format="{message}")
        self.run_one(self.config())
        logger.info("after")
        logger.remove(number)
        self.assertTrue(any(line.startswith("experiment ") for line in said))
        self.assertEqual(said[-1], "after\n")

    def test_the_memory_is_given_back(self):
        class Large(rich.RichEpochTrainer):
            def __init__(self, config, session):
                super().__init__(config, session)
                self.model.register_buffer("large", torch.zeros(3, 777))

            def after_train_step(self, *_):
                if self.config.name == "b":
                    raise ZeroDivisionError

        for name in ("a", "b", "c"):
            with contextlib.suppress(ZeroDivisionError):
                self.run_one(self.config(name), Large)
        gc.disable()
        self.addCleanup(gc.enable)
        large = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and one.shape == (3, 777)]
        self.assertEqual(large, [])

    def test_the_memory_goes_back_to_the_system(self):
        def used():
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        before = used()
        with launch(self.config()):
            blocks = [torch.ones(2**18) for _ in range(300)]  # 1 MiB each, below the raised thresholds
            del blocks
            within = used()
        self.assertGreater(within - before, 250 * 2**20)
        self.assertLess(used() - before, 100 * 2**20)

    def test_compiled_code_is_forgotten(self):
        for compiled in (True, False):
            config = self.config(f"{compiled}")
            with mock.patch("torch.compiler.reset") as reset:
                with launch(replace(config, trainer=replace(config.trainer, compile=compiled))):
                    reset.assert_not_called()
                self.assertEqual(reset.called, compiled)

    def test_a_failure_keeps_its_cause_and_context(self):
        for raised in (ZeroDivisionError("second"), RuntimeError("gloo: connection closed"), OSError(28, "full", "x")):
            with self.assertRaises(Exception) as caught, launch(self.config(type(raised).__name__)):
                try:
                    raise KeyError("first")
                except KeyError:
                    raise raised  # noqa: B904
            error = caught.exception
            if not isinstance(raised, ZeroDivisionError):
                self.assertEqual((type(error), error.__cause__), (RunError, raised))
            self.assertFalse(raised.__suppress_context__)
            self.assertIsInstance(raised.__context__, KeyError)

    def test_several_processes_take_a_command(self):
        config = self.config(dist=DistConfig(nproc=2))
        with self.assertRaisesRegex(UserError, "only a command starts several processes, found 2; .* torchrun"):
            self.run_one(config)

    def test_a_mistake_in_a_config_is_raised(self):
        with self.assertRaisesRegex(UserError, "^--optim.lrr: unknown key, did you mean '--optim.lr'"):
            load_config(["--optim.lrr", "1"])

    def test_the_results_of_a_run_without_a_validation(self):
        class Plain(toy.ToyEpochTrainer):
            def __init__(self, config, session):
                super().__init__(config, session)
                self.register_loader(self.train_loader)

        config = toy.make_config(progress={"epoch": 1}, name="plain", gpu_ids=-1)
        self.assertEqual(self.run_one(replace(config, dir=self.config().dir), Plain), {})


class TestTwoRanks(FolderTest):
    def test_several_runs(self):
        run_script(self.folder, TWICE_ON_TWO_RANKS, 2, str(self.folder))


if __name__ == "__main__":
    unittest.main()
