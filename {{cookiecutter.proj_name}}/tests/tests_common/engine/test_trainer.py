"""The training loop: what it computes."""

import functools
import json
import math
import unittest
from unittest import mock

import torch
from torch import nn

from common.config.errors import UserError
from common.state.file import read_checkpoint
from tests import needs_room
from tests.tests_common.engine import toy


class Stream(torch.utils.data.IterableDataset):
    """Samples that nobody has counted."""

    def __iter__(self):
        data = toy.make_data(10)
        return (data[i] for i in range(10))


class TestAccumulation(unittest.TestCase):
    """Batches whose gradients are averaged into one step."""

    def train(self, batch_size, accumulate, samples, trainer=toy.ToyEpochTrainer, **optim):
        config = toy.make_config({"accumulate": accumulate}, optim, batch_size=batch_size)
        trainer = trainer(config, toy.make_session(self), samples=samples, dtype=torch.float64)
        trainer.run()
        return toy.weights_of(trainer), trainer.optimizer_steps

    def assert_equal_weights(self, samples, trainer=toy.ToyEpochTrainer, **optim):
        whole, steps = self.train(32, 1, samples, trainer, **optim)
        parts, steps_of_parts = self.train(8, 4, samples, trainer, **optim)
        self.assertEqual(steps, steps_of_parts)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)

    def test_four_batches_of_8_equal_one_of_32(self):
        self.assert_equal_weights(samples=96)

    def test_a_short_last_window_of_whole_batches(self):
        self.assert_equal_weights(samples=80)

    def test_a_short_last_window_with_a_short_last_batch(self):
        for samples in (32 + 1, 32 + 13, 32 + 31):
            with self.subTest(samples=samples):
                self.assert_equal_weights(samples=samples)

    def test_with_clipping_momentum_and_average(self):
        self.assert_equal_weights(45, clip_gradients=0.1, args={"momentum": 0.9}, ema_decay=0.9)

    def test_by_iterations(self):
        self.assert_equal_weights(45, toy.ToyIterTrainer)

    def test_logged_loss_is_the_mean_over_samples(self):
        config = toy.make_config({"accumulate": 4}, {"lr": 1e-30}, {"epoch": 1, "iter_loss": 100}, batch_size=5)
        trainer = toy.ToyEpochTrainer(config, toy.make_session(self), samples=13, dtype=torch.float64)
        seen = {}
        trainer.after_train_epoch = lambda epoch, summary_dict: seen.update(summary_dict)
        trainer.run()
        data = toy.make_data(13, torch.float64).tensors
        expected = nn.functional.mse_loss(trainer.model(data["x"]), data["y"]).item()
        self.assertAlmostEqual(seen["loss"], expected, places=12)


class TestClipping(unittest.TestCase):
    """clip_gradients, and clip_gradients_warmup after clip_warmup epochs."""

    def first_step(self, epoch, **optim):
        """Return the largest change and the length of the change that the first step of an epoch makes."""
        config = toy.make_config(None, {"lr": 1.0, **optim}, {"epoch": epoch + 1})
        moved = []

        class Watched(toy.ToyEpochTrainer):
            def before_train_step(self, epoch_now, iteration, data_dict):
                self.before = toy.weights_of(self)

            def after_train_step(self, epoch_now, iteration, data_dict, output_dict, result_dict):
                if epoch_now == epoch and iteration == 0:
                    moved.append(toy.weights_of(self) - self.before)

        Watched(config, toy.make_session(self)).run()
        return moved[0].abs().max().item(), moved[0].norm().item()

    def test_by_norm(self):
        largest, length = self.first_step(0, clip_gradients=1e-3)
        self.assertAlmostEqual(length, 1e-3, delta=1e-6)

    def test_by_value(self):
        largest, length = self.first_step(0, clip_gradients=1e-3, clip_by="value")
        self.assertAlmostEqual(largest, 1e-3, delta=1e-6)
        self.assertGreater(length, 1.5e-3)

    def test_after_the_warmup(self):
        limits = {"clip_gradients": 1e-3, "clip_warmup": 1, "clip_gradients_warmup": 1e-4}
        self.assertAlmostEqual(self.first_step(0, **limits)[1], 1e-3, delta=1e-6)
        self.assertAlmostEqual(self.first_step(1, **limits)[1], 1e-4, delta=1e-6)


class TestBestTracker(unittest.TestCase):
    """Best model, early stopping, keep-last, validation and saving in the midst of an epoch."""

    def run_with_scores(self, scores, progress=None, trainer=None, **checkpoint):
        checkpoint = {"best_metric": "score", "best_larger": True, **checkpoint}
        config = toy.make_config(trainer, None, {"epoch": len(scores), **(progress or {})}, checkpoint)
        trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
        values = iter(scores)
        trainer.after_val_epoch = lambda epoch, summary_dict: summary_dict.update(score=next(values))
        trainer.run()
        return trainer

    def best_epoch(self, trainer):
        return read_checkpoint(trainer.session.folder / "checkpoints" / "best_score.pt")["trainer"]["epoch"]

    def test_larger_is_better(self):
        self.assertEqual(self.best_epoch(self.run_with_scores([0.1, 0.5, 0.3])), 2)

    def test_smaller_is_better(self):
        self.assertEqual(self.best_epoch(self.run_with_scores([0.5, 0.1, 0.3], best_larger=False)), 2)

    def test_nan_is_never_the_best(self):
        self.assertEqual(self.best_epoch(self.run_with_scores([0.1, math.nan, 0.3])), 3)

    def test_early_stop(self):
        said = []
        with mock.patch("common.engine.trainer.add_log", lambda text, *_, **__: said.append(text)):
            trainer = self.run_with_scores([0.1, 0.5, 0.4, 0.5, 0.9], trainer={"early_stop": 2})
        self.assertEqual(trainer.epoch, 4)
        self.assertIn("early stop after 2 validations no better than score 0.5", said)

    def test_early_stop_delta(self):
        trainer = self.run_with_scores([0.1, 0.2, 0.3, 0.9], trainer={"early_stop": 2, "early_stop_delta": 0.5})
        self.assertEqual(trainer.epoch, 3)

    def test_losses_and_metrics_know_their_direction(self):
        for name, known, larger in (("loss", None, False), ("error", False, False), ("error", True, True)):
            with self.subTest(name=name, known=known), mock.patch.object(toy.Error, "higher_is_better", known):
                trainer = toy.ToyEpochTrainer(toy.make_config(checkpoint={"best_metric": name}), toy.make_session(self))
                trainer.run()
                self.assertEqual(trainer.best.larger, larger)
        with self.assertRaisesRegex(UserError, "best_larger: is a larger 'error' better?"):
            toy.ToyEpochTrainer(toy.make_config(checkpoint={"best_metric": "error"}), toy.make_session(self)).run()

    def test_several_metrics(self):
        checkpoint = {"best_metric": ["score", "part/a"], "best_larger": True, "keep_best": 2}
        trainer = toy.ToyEpochTrainer(toy.make_config(None, None, {"epoch": 3}, checkpoint), toy.make_session(self))
        trainer.after_val_epoch = lambda epoch, summary: summary.update({"score": epoch, "part/a": -epoch})
        trainer.run()
        folder = trainer.session.folder / "checkpoints"
        epochs = {path.stem: read_checkpoint(path)["trainer"]["epoch"] for path in folder.glob("best_*")}
        steps = trainer.iterations_per_epoch
        iters = {
            f"best_{name}_iter_{epoch * steps:06d}": epoch
            for name, epoch in (("score", 2), ("score", 3), ("part_a", 1), ("part_a", 2))
        }
        self.assertEqual(epochs, {"best_score": 3, "best_part_a": 1, **iters})
        session = toy.make_session(self, folder / "latest.pt", trainer.session.folder)
        again = toy.ToyEpochTrainer(trainer.config, session)
        again.after_val_epoch = trainer.after_val_epoch
        again.prepare()
        self.assertEqual([tracker.best for tracker in again.trackers], [2, 0])

    def test_unknown_metric_is_refused_before_the_first_batch(self):
        for name, meant in (("losss", "loss"), ("eror", "error"), (["error", "losss"], "loss")):
            config = toy.make_config(checkpoint={"best_metric": name, "best_larger": False})
            trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
            with self.subTest(name=name), self.assertRaisesRegex(UserError, f"did you mean '{meant}'"):
                trainer.run()
            self.assertEqual((trainer.total_iterations, trainer.session.folder.exists()), (0, False))

    def test_a_validation_loader_without_a_length(self):
        for name, larger in (("loss", None), ("loss", False), ("eror", None)):
            config = toy.make_config(checkpoint={"best_metric": name, "best_larger": larger})
            trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
            trainer.val_loader = torch.utils.data.DataLoader(Stream(), 5)
            with self.subTest(name=name, larger=larger):
                if name == "loss":
                    trainer.run()
                    self.assertIsNotNone(trainer.best.best)
                else:
                    with self.assertRaisesRegex(UserError, "is a larger 'eror' better.*did you mean 'error'"):
                        trainer.run()

    def test_the_try_before_it_changes_nothing(self):
        weights = []
        for name in ("loss", None):
            config = toy.make_config(checkpoint={"best_metric": name})
            trainer = toy.ToyEpochTrainer(config, toy.make_session(self), dropout=0.5)
            trainer.run()
            weights.append(toy.weights_of(trainer))
        self.assertTrue(torch.equal(*weights))

    def test_unknown_metric(self):
        with self.assertRaisesRegex(UserError, "no 'scoer' in the validation, did you mean 'score'"):
            self.run_with_scores([0.1], best_metric="scoer")

    def test_keep_last(self):
        trainer = self.run_with_scores([0.3, 0.2, 0.1, 0.0], {"epoch_save_checkpoint": 1}, keep_last=2)
        files = {path.name for path in (trainer.session.folder / "checkpoints").iterdir()}
        self.assertEqual(
            files, {"epoch_003.pt", "epoch_004.pt", "best_score.pt", "latest.pt", "previous.pt", "final.pt"}
        )

    def test_keep_best(self):
        trainer = self.run_with_scores([0.3, 0.5, math.nan, 0.1, 0.4, 0.2], keep_best=3)
        folder = trainer.session.folder / "checkpoints"
        epochs = {path.stem: read_checkpoint(path)["trainer"]["epoch"] for path in folder.glob("best_*")}
        steps = trainer.iterations_per_epoch
        expected = {f"best_score_iter_{epoch * steps:06d}": epoch for epoch in (1, 2, 5)}
        self.assertEqual(epochs, expected | {"best_score": 2})

    def test_keep_best_across_a_cut(self):
        scores = [0.3, 0.5, 0.4, 0.6]

        def run(trainer):
            trainer.after_val_epoch = lambda epoch, summary_dict: summary_dict.update(score=scores[epoch])
            trainer.run()

        config = toy.make_config(
            progress={"epoch": 4, "epoch_eval": 1},
            checkpoint={"best_metric": "score", "best_larger": True, "keep_best": 2},
        )
        first = toy.ToyEpochTrainer(config, toy.make_session(self))

        class Tester:
            """Is called while there is a file to delete, in the third epoch."""

            calls, test_loader = 0, None

            def run(self, folder):
                self.calls += 1
                if self.calls == 3:
                    raise ZeroDivisionError
                return {}

        first.register_tester(Tester())
        with self.assertRaises(ZeroDivisionError):
            run(first)
        folder = first.session.folder
        latest = folder / "checkpoints" / "latest.pt"
        self.assertEqual(len(read_checkpoint(latest)["trainer"]["drop"]), 1)
        second = toy.ToyEpochTrainer(config, toy.make_session(self, latest, folder))
        run(second)
        files = {path.stem for path in (folder / "checkpoints").glob("best_*")}
        steps = second.iterations_per_epoch
        self.assertEqual(files, {"best_score", f"best_score_iter_{2 * steps:06d}", f"best_score_iter_{4 * steps:06d}"})

    def test_within_an_epoch(self):
        progress = {"epoch": 1, "epoch_val": 0, "iter_val": 4, "iter_save_checkpoint": 4}
        config = toy.make_config({"accumulate": 3}, None, progress, batch_size=2)
        trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
        trainer.run()
        lines = [json.loads(line) for line in (trainer.session.folder / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in lines if line["split"] == "val"], [4, 8, 12])
        files = {path.name for path in (trainer.session.folder / "checkpoints").glob("iter_*")}
        self.assertEqual(files, {"iter_000004.pt", "iter_000008.pt", "iter_000012.pt"})

    def test_intervals_in_optimizer_steps(self):
        progress = {"epoch_val": 0, "iter_unit": "step", "iter_val": 2, "iter_save_checkpoint": 3, "iter_loss": 2}
        for kind in (toy.ToyEpochTrainer, toy.ToyIterTrainer):
            config = toy.make_config({"accumulate": 5}, None, progress, batch_size=2)  # 12 iterations: 5, 5 and 2
            trainer = kind(config, toy.make_session(self))
            trainer.run()
            lines = [json.loads(line) for line in (trainer.session.folder / "metrics.jsonl").read_text().splitlines()]
            for split in ("train", "val"):
                self.assertEqual([line["step"] for line in lines if line["split"] == split], [10, 17, 24])
            files = {path.name for path in (trainer.session.folder / "checkpoints").glob("iter_*")}
            self.assertEqual(files, {"iter_000012.pt", "iter_000024.pt"})


class TestAverage(unittest.TestCase):
    """The moving average of the weights."""

    def test_is_evaluated_and_saved_beside_the_weights(self):
        config = toy.make_config(None, {"ema_decay": 0.9})
        seen = []

        class Watched(toy.ToyEpochTrainer):
            def before_val_epoch(self, epoch):
                seen.append(toy.weights_of(self))

        trainer = Watched(config, toy.make_session(self))
        trainer.run()
        state = read_checkpoint(trainer.session.folder / "checkpoints" / "final.pt")
        average = torch.cat([value.flatten() for value in state["ema"]["weights"].values()])
        weights = torch.cat([value.flatten() for value in state["model"].values()])
        torch.testing.assert_close(seen[-1], average, rtol=0, atol=0)
        torch.testing.assert_close(toy.weights_of(trainer), weights, rtol=0, atol=0)
        self.assertFalse(torch.equal(average, weights))
        self.assertEqual(state["ema"]["updates"], trainer.optimizer_steps)


class TestPrecision(unittest.TestCase):
    """One key for mixed precision."""

    def train(self, precision):
        config = toy.make_config({"precision": precision}, None, {"epoch": 4})
        seen = set()

        class Watched(toy.ToyEpochTrainer):
            def after_backward(self, epoch, iteration, data_dict, output_dict, result_dict):
                seen.add(output_dict["y"].dtype)

            def after_val_step(self, epoch, iteration, data_dict, output_dict, result_dict):
                seen.add(output_dict["y"].dtype)

        trainer = Watched(config, toy.make_session(self))
        before = toy.ToyEpochTrainer(config, toy.make_session(self)).model(toy.make_data().tensors["x"])
        trainer.run()
        after = trainer.model(toy.make_data().tensors["x"])
        y = toy.make_data().tensors["y"]
        self.assertLess(((after - y) ** 2).mean().item(), ((before - y) ** 2).mean().item())
        return seen, trainer

    def test_fp32(self):
        self.assertEqual(self.train("fp32")[0], {torch.float32})

    def test_bf16(self):
        seen, trainer = self.train("bf16")
        self.assertEqual(seen, {torch.bfloat16})
        self.assertEqual(toy.weights_of(trainer).dtype, torch.float32)

    def test_fp16_has_a_scaler_in_the_checkpoint(self):
        seen, trainer = self.train("fp16")
        self.assertEqual(seen, {torch.float16})
        self.assertIn("scale", read_checkpoint(trainer.session.folder / "checkpoints" / "final.pt")["scaler"])


class TestCompile(unittest.TestCase):
    """One key for torch.compile."""

    def test_compiles_the_model_and_keeps_its_names(self):
        config = toy.make_config({"compile": True}, None, {"epoch": 1})
        trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
        torch._dynamo.reset()
        compiled = []

        def backend(graph, inputs):
            compiled.append(graph)
            return graph.forward

        with mock.patch("torch.compile", functools.partial(torch.compile, backend=backend)):
            trainer.run()
        self.assertTrue(compiled)
        state = read_checkpoint(trainer.session.folder / "checkpoints" / "final.pt")
        self.assertEqual(set(state["model"]), {"0.weight", "0.bias", "2.weight", "2.bias"})

    def test_modes(self):
        for value, mode in ((True, None), ("reduce-overhead", "reduce-overhead")):
            config = toy.make_config({"compile": value}, None, {"epoch": 1})
            trainer = toy.ToyEpochTrainer(config, toy.make_session(self))
            with mock.patch("torch.compile", side_effect=lambda model, mode: model) as compiling:
                trainer.run()
            compiling.assert_called_once_with(trainer.forms.bare["main"], mode=mode)


class TestChannelsLast(unittest.TestCase):
    """One key for the layout of convolutions' weights."""

    def test_convolutions_alone(self):
        trainer = toy.ToyEpochTrainer(toy.make_config({"channels_last": True}), toy.make_session(self))
        trainer.register_model(nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 2)))
        convolution, _, linear = trainer.model
        self.assertTrue(convolution.weight.is_contiguous(memory_format=torch.channels_last))
        self.assertFalse(convolution.weight.is_contiguous())
        self.assertTrue(linear.weight.is_contiguous())


class TestParameterGroups(unittest.TestCase):
    """Learning rates of their own for parts of a model."""

    def test_by_overriding_a_method(self):
        class Grouped(toy.ToyEpochTrainer):
            def parameter_groups(self, model):
                return [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]

        trainer = Grouped(toy.make_config(progress={"iter_loss": 1}), toy.make_session(self))
        first, second = trainer.model[0].weight.clone(), trainer.model[2].weight.clone()
        trainer.run()
        self.assertTrue(torch.equal(trainer.model[0].weight, first))
        self.assertFalse(torch.equal(trainer.model[2].weight, second))
        lines = [json.loads(line) for line in (trainer.session.folder / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual((lines[0]["learning_rate"], lines[0]["learning_rate_1"]), (0.0, 0.1))


class TestPlateau(unittest.TestCase):
    """ReduceLROnPlateau watches the best metric."""

    def config(self, mode, best_larger=False):
        return toy.make_config(
            None,
            {"lr_scheduler": {"type": "ReduceLROnPlateau", "mode": mode, "patience": 0, "factor": 0.5}},
            {"epoch": 3},
            {"best_metric": "score", "best_larger": best_larger},
        )

    def test_lowers_the_rate_when_nothing_improves(self):
        trainer = toy.ToyEpochTrainer(self.config("min"), toy.make_session(self))
        trainer.after_val_epoch = lambda epoch, summary_dict: summary_dict.update(score=1.0)
        trainer.run()
        self.assertAlmostEqual(trainer.optimizer.param_groups[0]["lr"], 0.025)

    def test_upside_down_is_refused(self):
        trainer = toy.ToyEpochTrainer(self.config("max"), toy.make_session(self))
        with self.assertRaisesRegex(UserError, "optim.lr_scheduler.mode: expected min"):
            trainer.run()


@needs_room("diagnose")
class TestDebug(unittest.TestCase):
    """The debug mode."""

    def test_names_the_gradient_and_dumps_the_batch(self):
        from common.config.schema import DebugConfig

        class Broken(toy.ToyEpochTrainer):
            def after_backward(self, *arguments):
                raise AssertionError("not reached")

            def train_step(self, epoch, iteration, data_dict):
                output_dict, result_dict = super().train_step(epoch, iteration, data_dict)
                self.model[0].weight.register_hook(lambda gradient: gradient * math.inf)
                return output_dict, result_dict

        config = toy.make_config(debug=DebugConfig(debug_mode=True))
        trainer = Broken(config, toy.make_session(self))
        self.addCleanup(torch.autograd.set_detect_anomaly, False)
        with self.assertRaisesRegex(FloatingPointError, "0.weight"):
            trainer.run()
        dump = torch.load(trainer.session.folder / "debug" / "epoch_000_iter_000000.pt", weights_only=True)
        self.assertEqual(set(dump["data_dict"]), {"x", "y"})

    def test_prints_every_gradient(self):
        from loguru import logger

        from common.config.schema import DebugConfig

        lines = []
        handler = logger.add(lines.append)
        self.addCleanup(logger.remove, handler)
        config = toy.make_config(debug=DebugConfig(print_all_grad=True))
        toy.ToyEpochTrainer(config, toy.make_session(self)).run()
        text = "".join(lines)
        for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
            self.assertRegex(text, rf"{name}\s+-?\d\.\d+e")


class TestMistakes(unittest.TestCase):
    """What a subclass may forget."""

    def test_no_loss(self):
        trainer = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
        trainer.train_step = lambda epoch, iteration, data_dict: ({}, {"los": 1.0})
        with self.assertRaisesRegex(UserError, "have no 'loss'"):
            trainer.run()

    def test_a_loss_of_several_elements(self):
        for loss, found in ((torch.ones(2, 1, requires_grad=True), r"shape \(2, 1\)"), (1.5, "float")):
            trainer = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
            trainer.train_step = lambda epoch, iteration, data_dict, loss=loss: ({}, {"loss": loss})
            with self.assertRaisesRegex(UserError, f"'loss' must be a tensor of one element, found {found}"):
                trainer.run()

    def test_a_result_of_several_elements(self):
        trainer = toy.ToyEpochTrainer(toy.make_config(), toy.make_session(self))
        trainer.val_step = lambda epoch, iteration, data_dict: ({"y": data_dict["y"]}, {"each": torch.zeros(5)})
        with self.assertRaisesRegex(UserError, r"result 'each': expected a single value, found one of shape \(5,\)"):
            trainer.run()

    def test_a_result_with_a_name_that_is_taken(self):
        class Named(toy.ToyEpochTrainer):
            def train_step(self, *arguments):
                output_dict, result_dict = super().train_step(*arguments)
                return output_dict, {**result_dict, "grad_norm": 1.0}

        with self.assertRaisesRegex(UserError, "its result 'grad_norm' has the name of a value that the engine logs"):
            Named(toy.make_config(progress={"iter_loss": 1}), toy.make_session(self)).run()

    def test_a_metric_and_a_loss_term_of_one_name(self):
        for name in ("dice", "loss"):
            config = toy.make_config(loss={"dice": {}}, metric={name: {}})
            with self.assertRaisesRegex(UserError, f"^metric.{name}: the loss or a term of it has this name"):
                toy.ToyEpochTrainer(config, toy.make_session(self)).run()

    def test_more_iterations_than_batches(self):
        trainer = toy.ToyEpochTrainer(toy.make_config(progress={"iters_per_epoch": 5}), toy.make_session(self))
        with self.assertRaisesRegex(UserError, "ended after 1 of 5 batches"):
            trainer.run()

    def test_by_iterations_the_passes_follow_one_another(self):
        seen = []

        class Watched(toy.ToyIterTrainer):
            def before_train_step(self, epoch, iteration, data_dict):
                seen.append((epoch, iteration, sorted(data_dict["y"].flatten().tolist())))

        Watched(toy.make_config(progress={"iters_per_epoch": 3}, batch_size=12), toy.make_session(self)).run()
        self.assertEqual([place[:2] for place in seen], [(e, i) for e in range(2) for i in range(3)])
        everything = sorted(toy.make_data().tensors["y"].flatten().tolist())
        for first in (0, 2, 4):
            self.assertEqual(sorted(seen[first][2] + seen[first + 1][2]), everything)
