"""Streams: the same batches on any number of processes and workers, and exact resumes."""

import itertools
import random
import unittest
from unittest import mock

import torch
from torch.utils.data import DataLoader

from common.config.build import build_loader
from common.config.errors import RunError, UserError
from common.config.registry import DATASET_REGISTRY
from common.config.schema import Config, DatasetConfig
from common.engine import EpochBasedTrainer, IterBasedTrainer
from common.loading.stream import StreamLoader
from common.log.metric import MetricSet
from common.run.seed import seed_everything
from tests import campaign_of, needs_room, share_of
from tests.compare import differences
from tests.tests_common.engine import rich, test_cuts, toy
from tests.tests_common.loading import streams

WITHOUT_A_STATE = (streams.Stream, streams.Endless, streams.Shuffled, streams.Dividing)
WITH_A_STATE = (streams.Stateful, streams.EndlessStateful, streams.DividingStateful)
QUIET = (streams.Quiet, streams.QuietStateful)


def indices_of(dataset, world=1, steps=None, **options):
    """Return the samples of each step of all ranks together, as each rank's list."""
    ranks = []
    for rank in range(world):
        with (
            mock.patch("common.loading.stream.get_data_rank", lambda rank=rank: rank),
            mock.patch("common.loading.stream.get_data_size", lambda: world),
        ):
            loader = StreamLoader(dataset(), **options)
            sizes = []
            batches = []
            for batch in itertools.islice(loader, steps):
                batches.append(batch["index"].tolist())
                sizes.append(loader.sizes_at(len(sizes))[0])
            ranks.append([batch[:size] for batch, size in zip(batches, sizes, strict=True)])
    return [list(step) for step in zip(*ranks, strict=True)]


class TestBatches(unittest.TestCase):
    """Which samples a batch has."""

    def test_in_training_the_stream_begins_anew(self):
        steps = indices_of(streams.Stream, batch_size=6, training=True, steps=14)
        self.assertEqual(sum((sum(step, []) for step in steps), []), [i % 40 for i in range(84)])

    def test_workers_and_ranks_do_not_matter(self):
        whole = indices_of(streams.Shuffled, batch_size=6, training=True, steps=14)
        for world, worker in share_of([(1, 1), (1, 3), (2, 0), (3, 2)], 2):
            with self.subTest(world=world, worker=worker):
                options = {"batch_size": 6 // world, "worker": worker, "training": True}
                steps = indices_of(streams.Shuffled, world, 14, **options)
                for step, expected in zip(steps, whole, strict=True):
                    merged = [one for row in itertools.zip_longest(*step) for one in row]
                    self.assertEqual(merged, expected[0])

    def test_in_an_evaluation_each_sample_once(self):
        for world, worker in ((1, 0), (2, 0), (3, 2)):
            with self.subTest(world=world, worker=worker):
                steps = indices_of(streams.Stream, world, batch_size=4, worker=worker)
                self.assertEqual(len(steps), -(-40 // (4 * world)))
                self.assertEqual(sorted(sum((sum(step, []) for step in steps), [])), list(range(40)))

    def test_at_most_so_many_samples(self):
        self.assertEqual(sum(len(step[0]) for step in indices_of(streams.Stream, batch_size=4, max_samples=10)), 10)

    def test_one_that_divides_itself(self):
        steps = indices_of(streams.Dividing, batch_size=5, worker=2)
        self.assertEqual(sorted(sum((step[0] for step in steps), [])), list(range(40)))

    def test_transforms_do_not_depend_on_workers(self):
        class Noise:
            def __call__(self, sample):
                return {**sample, "x": sample["x"] + torch.rand(4)}

        seen = []
        for worker in (0, 2):
            state = torch.get_rng_state()
            loader = StreamLoader(streams.Shuffled(), 5, worker, True, transforms=Noise())
            seen.append([batch["x"] for batch in itertools.islice(loader, 12)])
            self.assertTrue(torch.equal(state, torch.get_rng_state()))
        self.assertTrue(all(map(torch.equal, *seen)))
        self.assertFalse(torch.equal(seen[0][0], seen[0][8]))  # the same samples in the next pass


class TestResume(test_cuts.TestCutsBase):
    """Chains of runs that are cut five times, compared with the run that nobody cut."""

    def make(self, name, set_up, cut, i=0):
        """Return the trainer of the i-th part of a run, with its stream."""
        mode, kind, worker, loader = set_up

        class Own(rich.RichSteps):
            def __init__(self, config, session):
                super().__init__(config, session)
                stream = StreamLoader(kind(), 6, worker, True, 5, loader=loader, where="dataset.train")
                self.register_loader(stream, StreamLoader(streams.Stream(), 7))

            def train_step(self, epoch, iteration, data_dict):
                seen = self.root / f"{self.session.folder.name}.txt"
                with seen.open("a") as file:
                    file.write(f"{self.total_iterations} {data_dict['index'].tolist()}\n")
                return super().train_step(epoch, iteration, data_dict)

        Own.root = self.root
        progress = {"iter_val": 9, "iter_save_checkpoint": 0, "iters_per_epoch": 8}
        base = {"epoch": EpochBasedTrainer, "iter": IterBasedTrainer}[mode]
        with mock.patch.dict(rich.TRAINERS, {mode: type("Trainer", (Own, base), {})}):
            return super().make(name, {"mode": mode, "progress": progress}, cut, i)

    def test_exact(self):
        kinds = [(kind, worker, "process") for kind in WITHOUT_A_STATE + WITH_A_STATE for worker in (0, 2)]
        kinds += [(kind, 2, "thread") for kind in QUIET]
        cases = [(mode, *kind) for kind in kinds for mode in ("epoch", "iter")]
        draw = random.Random(3)
        for mode, kind, worker, loader in campaign_of(cases, 9):
            cuts = sorted(draw.sample(range(1, 23), 5))
            with self.subTest(kind.__name__, mode=mode, worker=worker, loader=loader, cuts=cuts):
                set_up, name = (mode, kind, worker, loader), f"{kind.__name__} {mode} {worker} {loader}"
                whole = self.train(f"whole {name}", set_up)
                found = self.train(f"cut {name}", set_up, *({"iteration": cut} for cut in cuts))
                self.assertEqual(list(differences(whole, found)), [])
                seen = [(self.root / f"{folder.name}.txt").read_text() for folder in (whole, found)]
                self.assertEqual(*seen)

    def test_other_workers_than_before(self):
        whole = self.train("whole", ("iter", streams.Shuffled, 0, "process"))
        self.cut_once("cut", ("iter", streams.Shuffled, 2, "process"), {"iteration": 11})
        self.make("cut", ("iter", streams.Shuffled, 3, "process"), {}, 1).run()
        differs = [line for line in differences(whole, self.root / "cut") if "/loader/" not in line]
        self.assertEqual(differs, [])
        self.cut_once("own", ("iter", streams.Dividing, 2, "process"), {"iteration": 11})
        with self.assertRaisesRegex(UserError, "dataset.train.worker: the stream was divided among 2, found 3"):
            self.make("own", ("iter", streams.Dividing, 3, "process"), {}, 1).run()


class TestFromConfig(unittest.TestCase):
    """``dataset.<split>`` with a stream."""

    def setUp(self):
        self.enterContext(mock.patch.dict(DATASET_REGISTRY._classes))
        for kind in (streams.Stream, streams.Endless, streams.Broken):
            name = f"Tested{kind.__name__}"

            def make(data_dir, kind=kind):
                return kind()

            DATASET_REGISTRY.register(name)(make)

    def load(self, split="train", kind="Stream", config=None, max_samples=None, **section):
        section = {"type": f"Tested{kind}", "batch_size": 4, **section}
        return build_loader(
            Config(dataset=DatasetConfig(**{split: section}, **(config or {}))), split, False, max_samples
        )

    def test_length(self):
        self.assertEqual([len(self.load()), len(self.load("val", batch_size=7))], [10, 6])
        with self.assertRaises(TypeError):
            len(self.load(kind="Endless"))

    @needs_room("vision")
    def test_batch_transforms(self):
        loader = self.load(batch_transforms=[{"type": "ToTensor"}])
        self.assertIsNotNone(loader.transform_batch)

    def test_refused(self):
        for key, value in (("drop_last", True), ("sample_rate", 0.5), ("persistent_workers", True)):
            with self.assertRaisesRegex(UserError, f"dataset.train.{key}: without effect, since Stream is a stream"):
                self.load(**{key: value})
        with self.assertRaisesRegex(UserError, "dataset.bad_sample: expected raise"):
            self.load(config={"bad_sample": "replace"})
        with self.assertRaisesRegex(UserError, "dataset.train.loader: thread: Stream draws from the generators"):
            self.load(loader="thread", worker=1)

    def test_a_sample_that_fails(self):
        with self.assertRaisesRegex(RunError, "dataset.train: sample 11 of the stream cannot be read: OSError: the"):
            list(self.load(kind="Broken"))

    def test_an_evaluation(self):
        """Metrics over a stream are those over the whole set."""
        trainer = toy.ToyEpochTrainer(toy.make_config(progress={"iters_per_epoch": 2}), toy.make_session(self))
        losses = []
        for loader in (StreamLoader(streams.Stream(), 7), DataLoader(streams.Stream(), 40)):
            seed_everything(1)
            trainer = toy.ToyEpochTrainer(toy.make_config(progress={"iters_per_epoch": 2}), toy.make_session(self))
            trainer.register_loader(StreamLoader(streams.Stream(), 8, training=True), loader)
            trainer.register_metric(MetricSet({"error": toy.Error()}))
            seen = {}
            trainer.after_val_epoch = lambda epoch, summary, seen=seen: seen.update(summary)
            trainer.run()
            losses.append((seen["loss"], seen["error"]))
        self.assertAlmostEqual(losses[0][0], losses[1][0], places=6)
        self.assertAlmostEqual(losses[0][1], losses[1][1], places=6)
