"""What steps and hooks log beside numbers: found by TensorBoard's reader once, whatever has cut the run."""

from collections import Counter

import torch
from matplotlib.figure import Figure

from tests.compare import differences, records_of
from tests.tests_common.engine import test_cuts, toy
from tests.tests_common.processes import run_script

TWO_RANKS = """
    import sys
    from pathlib import Path
    import torch
    from common.run.distributed import get_rank
    from common.run.launch import launch
    from tests.compare import records_of
    from tests.tests_common.engine.test_logging import log_all
    from tests.tests_common.processes import RegressionTrainer, make_config

    class Logging(RegressionTrainer):
        def train_step(self, epoch, iteration, data_dict):
            if get_rank() == 1 or iteration % 2:  # on any ranks, in any order
                self.log_text("sometimes", f"rank {get_rank()}")
            log_all(self, float(iteration))
            return super().train_step(epoch, iteration, data_dict)

    config = make_config(sys.argv[1], "run", 2, epoch=2)
    with launch(config) as session:
        Logging(config, session).run()
    if get_rank() == 0:
        steps = {name: [event["step"] for event in events] for name, events in records_of(session.folder).items()}
        assert steps.pop("tensors/train/sometimes") == [2, 4, 7, 9], steps  # of rank 0
        for name, found in steps.items():
            assert found == ([5, 10] if "/val/" in name else [*range(1, 11)]), (name, found)
        assert len(steps) == 11, steps
"""


def log_all(trainer, value):
    """Log one of each kind."""
    figure = Figure(figsize=(0.5, 0.5))
    figure.gca().plot([0, value])
    trainer.log_text("text", f"value {value}")
    trainer.log_histogram("histogram", torch.arange(5) * value)
    trainer.log_figure("figure", figure)
    trainer.log_image("image", torch.full((3, 4, 4), value % 1))
    trainer.log_audio("audio", torch.full((9,), value % 1), 8000)


class LoggingSteps:
    """Logs from wherever one can; the values tell the steps apart."""

    def before_train_epoch(self, epoch):
        super().before_train_epoch(epoch)
        self.log_text("begins", f"{epoch}")

    def train_step(self, epoch, iteration, data_dict):
        result = super().train_step(epoch, iteration, data_dict)
        if self.is_logged:
            log_all(self, float(result[1]["loss"].detach()))
        return result

    def after_backward(self, epoch, iteration, data_dict, output_dict, result_dict):
        self.log_histogram("gradients", self.model[0].weight.grad)

    def after_train_epoch(self, epoch, summary_dict):
        self.log_text("ends", f"{summary_dict}")

    def val_step(self, epoch, iteration, data_dict):
        self.log_text("batch", f"{iteration}")
        self.log_text(f"batch {iteration}", f"{data_dict['x'][0]}")
        return super().val_step(epoch, iteration, data_dict)

    def after_val_epoch(self, epoch, summary_dict):
        log_all(self, summary_dict["error"])


class TestCutRuns(test_cuts.TestCutsBase):
    """The rich trainer, as it logs whole and cut."""

    def make(self, name, set_up, cut, i=0):
        """Return the trainer of the i-th part of a run."""
        trainer = super().make(name, set_up, cut, i)
        trainer.__class__ = type("Logging", (LoggingSteps, type(trainer)), {})
        return trainer

    def test_cut_ten_times(self):
        at, within = (lambda iteration: {"iteration": iteration}), (lambda val_step: {"val_step": val_step})
        cuts = [at(5), within(2), at(9), at(18), at(20), within(4), at(30), within(1), at(41), at(53)]
        for mode in ("epoch", "iter"):
            whole = self.train(f"whole {mode}", {"mode": mode})
            found = self.train(f"cut {mode}", {"mode": mode}, *cuts)
            self.assertEqual(list(differences(whole, found)), [], cuts)
            self.check_steps(records_of(found))

    def check_steps(self, records):
        steps = {name: [event["step"] for event in events] for name, events in records.items()}
        for name, found in steps.items():
            self.assertEqual(max(Counter(found).values()), 1, name)
        logged, validated = [*range(4, 54, 4)], sorted({*range(7, 54, 7), 18, 36, 54})
        for name in ("tensors/{}/text", "histograms/{}/histogram", "images/{}/figure", "images/{}/image"):
            self.assertEqual(steps[name.format("train")], logged)
            self.assertEqual(steps[name.format("val")], validated)
        self.assertEqual((steps["audio/train/audio"], steps["audio/val/audio"]), (logged, validated))
        self.assertEqual(steps["histograms/train/gradients"], logged)
        self.assertEqual((steps["tensors/train/begins"], steps["tensors/train/ends"]), ([0, 18, 36], [18, 36, 54]))
        self.assertEqual((steps["tensors/val/batch"], steps["tensors/val/batch 4"]), (validated, validated))
        first = {event["tensor_proto"].string_val[0] for event in records["tensors/val/batch"]}
        self.assertEqual(first, {b"0"})  # of several values in one validation

    def test_from_any_rank(self):
        run_script(self.root, TWO_RANKS, 2, str(self.root))


class TestThinning(test_cuts.TestCutsBase):
    def test_nothing_is_logged_before_the_run_nor_without_iter_loss(self):
        asked = []

        class Trainer(toy.ToyEpochTrainer):
            def train_step(self, *arguments):
                asked.append(self.is_logged)
                self.log_text("text", "never")
                return super().train_step(*arguments)

            def val_step(self, *arguments):
                return super().train_step(*arguments)

        trainer = Trainer(toy.make_config(progress={"iter_loss": 0, "epoch": 1}), toy.make_session(self))
        self.assertFalse(trainer.is_logged)
        trainer.log_text("text", "too early")
        trainer.run()
        self.assertEqual({*asked}, {False})
        self.assertEqual(records_of(trainer.session.folder), {})
