"""The same training on 1, 2 and 4 processes, by every strategy, and from one to the other."""

import json
import tempfile
import unittest
from pathlib import Path

import torch

from common.state.file import read_checkpoint
from tests import slow
from tests.tests_common.processes import run_script

# Each word is strategy:tp_size:shard_size:accumulation. The batches of a rank follow from those that divide them.
EQUAL = """
    import sys
    from tests.tests_common.processes import make_config, train

    folder, processes = sys.argv[1], int(sys.argv[2])
    for word in sys.argv[3:]:
        strategy, tp, shard, accumulate = word.split(":")
        tp, shard, accumulate = int(tp) or None, int(shard) or None, int(accumulate)
        parts = 1 if strategy == "tp" else processes // (tp or 1)
        dist = {"strategy": strategy, "tp_size": tp, "shard_size": shard}
        train(make_config(folder, f"{word}:{processes}", parts, accumulate, 10 if accumulate == 1 else 17, dist=dist))
"""

# Cut after so many iterations, within a window, by a signal to the last rank; 0: to the end.
CHAIN = """
    import os, signal, sys
    from tests.tests_common.processes import RegressionTrainer, make_config, train
    from common.run.distributed import get_rank, get_world_size

    folder, name, strategy, cut = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    processes = int(os.environ.get("WORLD_SIZE", 1))

    class Cut(RegressionTrainer):
        def after_train_step(self, epoch, iteration, data_dict, *_):
            with open(f"{folder}/{name}.{get_rank()}.samples", "a") as file:
                print(self.total_iterations + 1, *data_dict["y"].flatten().tolist(), file=file)
            if self.total_iterations + 1 == cut:
                self.stop._next = 0  # at once, not within the second
                if get_rank() == get_world_size() - 1:
                    os.kill(os.getpid(), signal.SIGTERM)

    dist = {"strategy": strategy}
    train(make_config(folder, name, processes, 2, 10, resume="auto", dist=dist, early_stop=0), Cut)
"""


# The validation of sets of many sizes; the model does not move.
VALIDATE = """
    import os, sys
    import torch
    from common.data import make_loader
    from common.run.distributed import gather_data
    from common.log.metric import BaseMetric, MetricSet
    from tests.tests_common.engine import toy
    from tests.tests_common.processes import RegressionTrainer, make_config, train

    class Seen(BaseMetric):
        def reset(self):
            self.seen = []

        def update(self, output_dict, data_dict):
            self.seen += data_dict["y"].flatten().tolist()

        def compute(self):
            seen = sum(gather_data(self.seen), [])
            assert len(set(seen)) == len(seen), "a sample came twice"
            return float(len(seen))

    class Validating(RegressionTrainer):
        def __init__(self, config, session):
            super().__init__(config, session)
            val = toy.make_data(size, torch.float64)
            self.register_loader(self.train_loader, make_loader(val, 12 // processes))
            self.register_metric(MetricSet({"error": toy.Error(), "seen": Seen()}))

    processes = int(os.environ.get("WORLD_SIZE", 1))
    for size in (*range(34), 1797):
        strategy = {"strategy": ("none", "ddp", "fsdp")[processes - 1]}
        config = make_config(sys.argv[1], f"{size}:{processes}", 1, 1, 1, dist=strategy, optim={"lr": 0.0})
        train(config, Validating)
"""


class StrategiesTest(unittest.TestCase):
    """Scripts in a folder of their own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def final(self, name):
        return read_checkpoint(self.folder / name / "checkpoints" / "final.pt")

    def losses(self, name):
        lines = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["split"], line["loss"]) for line in lines if "loss" in line]


@slow
class TestEqual(StrategiesTest):
    """50 steps in float64, with clipping and an average, end equal to those of one process."""

    def check(self, processes, *words):
        run_script(self.folder, EQUAL, 1, str(self.folder), "1", "none:0:0:1", "none:0:0:2")
        run_script(self.folder, EQUAL, processes, str(self.folder), str(processes), *words)
        for word in words:
            expected, found = self.final(f"none:0:0:{word[-1]}:1"), self.final(f"{word}:{processes}")
            for part, other in (
                (expected["model"], found["model"]),
                (expected["ema"]["weights"], found["ema"]["weights"]),
                *zip(expected["optimizer"]["state"].values(), found["optimizer"]["state"].values(), strict=True),
            ):
                torch.testing.assert_close(other, part, rtol=0, atol=1e-10)
            expected, found = self.losses(f"none:0:0:{word[-1]}:1"), self.losses(f"{word}:{processes}")
            self.assertEqual([line[:2] for line in found], [line[:2] for line in expected])
            torch.testing.assert_close([line[2] for line in found], [line[2] for line in expected], rtol=0, atol=1e-10)

    def test_two_processes(self):
        self.check(2, "ddp:0:0:1", "ddp:0:0:2", "fsdp:0:0:1", "fsdp:0:0:2", "tp:0:0:1")

    def test_four_processes(self):
        words = "ddp:0:0:1", "ddp:0:0:2", "fsdp:0:0:1", "fsdp:0:0:2", "tp:0:0:1", "fsdp:2:0:2", "fsdp:0:2:1"
        self.check(4, *words)


@slow
class TestValidation(StrategiesTest):
    """Each sample counts once, whatever the size of the set and the number of ranks."""

    def test_results_do_not_depend_on_the_ranks(self):
        for processes in (1, 2, 3):
            run_script(self.folder, VALIDATE, processes, str(self.folder))
        for size in (*range(34), 1797):
            results = []
            for processes in (1, 2, 3):
                lines = (self.folder / f"{size}:{processes}" / "metrics.jsonl").read_text().splitlines()
                results += [line for line in map(json.loads, lines) if line["split"] == "val"]
            self.assertEqual(len(results), 3 if size else 0)  # an empty set is not validated
            for result in results:
                self.assertEqual(result["seen"], size)
                for name in ("loss", "error"):
                    self.assertAlmostEqual(result[name], results[0][name], delta=1e-12)


@slow
class TestFromOneToTheOther(StrategiesTest):
    """Cut on 2 ranks, in the midst of a window; on with 1, with 4 sharded, and with 2 again."""

    def test_the_same_samples_and_losses(self):
        run_script(self.folder, CHAIN, 1, str(self.folder), "whole", "none", "0")
        for processes, strategy, cut in ((2, "ddp", 13), (1, "none", 22), (4, "fsdp", 36), (2, "ddp", 0)):
            done = run_script(self.folder, CHAIN, processes, str(self.folder), "cut", strategy, str(cut), check=False)
            self.assertEqual(done.returncode, 0 if cut == 0 else 75 if processes == 1 else 1, done.stderr)
        expected, found = self.losses("whole"), self.losses("cut")
        self.assertEqual([line[:2] for line in found], [line[:2] for line in expected])
        torch.testing.assert_close([line[2] for line in found], [line[2] for line in expected], rtol=0, atol=1e-9)
        samples = [
            sorted(
                (int(words[0]), word)
                for file in self.folder.glob(f"{name}.*.samples")
                for words in map(str.split, file.read_text().splitlines())
                for word in words[1:]
            )
            for name in ("whole", "cut")
        ]
        self.assertEqual(*samples)


if __name__ == "__main__":
    unittest.main()
