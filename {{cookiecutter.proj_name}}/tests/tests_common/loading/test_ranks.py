"""Other ways to load on several real processes."""

import random
import unittest

from common.state.file import read_plain
from tests import campaign_of, share_of, slow
from tests.compare import differences, metrics_of
from tests.tests_common.engine import test_processes

# Cut by a signal to one rank; each rank leaves what it read.
CUT = """
    import os, signal, sys
    from dataclasses import replace
    from torch.utils.data import DataLoader, DistributedSampler
    from common.engine import EpochBasedTrainer, IterBasedTrainer, agenda
    from common.loading.stream import StreamLoader
    from common.run.distributed import get_rank
    from common.run.launch import launch
    from tests.tests_common.engine import rich
    from tests.tests_common.loading import streams, test_own_loaders

    folder, name, kind, mode, worker, loader, cut = sys.argv[1:]
    agenda._AGREE_EVERY = 0  # the ranks agree after each iteration, so that no cut is passed
    config = rich.make_config(mode, accumulate=3, name=name, resume="auto", progress={"iters_per_epoch": 8})
    config = replace(config, dir=replace(config.dir, expr_dir=folder))

    class Cut(rich.RichSteps, {"epoch": EpochBasedTrainer, "iter": IterBasedTrainer}[mode]):
        def __init__(self, config, session):
            super().__init__(config, session)
            if kind == "own":
                data = test_own_loaders.Noisy()
                own = DataLoader(data, 2, sampler=DistributedSampler(data), num_workers=int(worker))
            else:
                own = StreamLoader(getattr(streams, kind)(), 3, int(worker), True, 5, loader=loader)
            self.register_loader(own, self.val_loader)

        def train_step(self, epoch, iteration, data_dict):
            if "index" in data_dict:
                with open(f"{folder}/{name}.{get_rank()}", "a") as file:
                    file.write(f"{self.total_iterations} {data_dict['index'].tolist()}\\n")
            return super().train_step(epoch, iteration, data_dict)

        def after_train_step(self, *_):
            if self.total_iterations + 1 == int(cut) and get_rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with launch(config) as session:
        Cut(config, session).run()
"""
KINDS = ["Stream", "Endless", "Shuffled", "Dividing", "Stateful", "EndlessStateful", "DividingStateful", "own"]
CASES = [(kind, mode, worker, "process") for kind in KINDS for mode in ("epoch", "iter") for worker in ("0", "2")]
CASES += [(kind, mode, "2", "thread") for kind in ("Quiet", "QuietStateful") for mode in ("epoch", "iter")]

# Sequences of unequal length, in double precision; rank 0 leaves the weights.
COUNTED = """
    import sys
    from dataclasses import replace
    import torch
    from torch import nn
    from common.data import BaseDataset, make_loader
    from common.engine import EpochBasedTrainer, IterBasedTrainer
    from common.loading.pad import Pad
    from common.log.metric import MetricSet, MeanMetric
    from common.optim.build import build_optimizer
    from common.run.distributed import get_rank
    from common.run.launch import launch
    from tests.tests_common.engine import toy

    folder, name, ranks, accumulate, mode = sys.argv[1:]
    keys = {"mode": mode, "accumulate": int(accumulate)}
    config = toy.make_config(keys, {"type": "SGD", "lr": 0.1}, {"iter_loss": 1, "epoch": 3})
    config = replace(config, gpu_ids=-1, name=name, dir=replace(config.dir, expr_dir=folder))

    class Texts(BaseDataset):
        random_generators = ()

        def __init__(self, samples):
            generator = torch.Generator().manual_seed(samples)
            lengths = torch.randint(1, 12, (samples,), generator=generator).tolist()
            self.texts = [torch.randint(8, (length + 1,), generator=generator) for length in lengths]

        def __len__(self):
            return len(self.texts)

        def __getitem__(self, index):
            return {"tokens": self.texts[index][:-1], "label": self.texts[index][1:]}

    class Hits(MeanMetric):
        higher_is_better = True

        def measure(self, output_dict, data_dict):
            known = data_dict["label"] != -100
            hits = (output_dict["logits"].argmax(1) == data_dict["label"]) & known
            return hits.sum(1).double() / known.sum(1)

    class Train({"epoch": EpochBasedTrainer, "iter": IterBasedTrainer}[mode]):
        def __init__(self, config, session):
            super().__init__(config, session)
            keys = {"collate_fn": Pad({"tokens": 0, "label": -100}, count="label")}
            size = 12 // int(ranks)
            train = make_loader(Texts(50), size, training=True, **keys)
            self.register_loader(train, make_loader(Texts(21), size, **keys))
            torch.manual_seed(0)
            self.register_model(nn.Sequential(nn.Embedding(8, 6), nn.Linear(6, 8)).double())
            self.register_optimizer(build_optimizer(config.optim, self.parameter_groups(self.model)))
            self.register_metric(MetricSet({"hits": Hits()}))

        def train_step(self, epoch, iteration, data_dict):
            logits = self.model(data_dict["tokens"]).transpose(1, 2)
            return {"logits": logits}, {"loss": nn.functional.cross_entropy(logits, data_dict["label"])}

        val_step = train_step

    with launch(config) as session:
        trainer = Train(config, session)
        trainer.run()
        if get_rank() == 0:
            torch.save({"weights": toy.weights_of(trainer)}, f"{folder}/{name}.pt")
"""


class TestCut(test_processes.ProcessesTest):
    """Five cuts on two processes, compared with the run that nobody cut, sample by sample."""

    @slow
    def test_exact(self):
        draw = random.Random(5)
        for kind, mode, worker, loader in campaign_of(CASES, 72):
            with self.subTest(kind=kind, mode=mode, worker=worker, loader=loader):
                args, name = (kind, mode, worker, loader), f"{kind}{mode}{worker}{loader}"
                self.run_script(CUT, str(self.folder), f"whole{name}", *args, "0")
                for cut in sorted(draw.sample(range(1, 23), 5)):
                    self.run_script(CUT, str(self.folder), f"cut{name}", *args, str(cut), expect=1)
                self.run_script(CUT, str(self.folder), f"cut{name}", *args, "0")
                self.assertEqual(list(differences(self.folder / f"whole{name}", self.folder / f"cut{name}")), [])
                for rank in range(2) if kind != "own" else ():
                    whole, found = ((self.folder / f"{run}{name}.{rank}").read_text() for run in ("whole", "cut"))
                    self.assertEqual(whole, found)


class TestUnequalLengths(test_processes.ProcessesTest):
    """Losses weighted by tokens, and metrics, are those of one process."""

    def test_ranks_and_accumulation(self):
        for mode, accumulate in share_of([("epoch", 1), ("epoch", 3), ("iter", 3), ("iter", 1)], 3):
            runs = {}
            for ranks in share_of((1, 2, 4), 2) if accumulate > 1 else (1, 2):
                name = f"{mode}{accumulate}{ranks}"
                self.run_script(COUNTED, str(self.folder), name, str(ranks), str(accumulate), mode, ranks=ranks)
                runs[ranks] = read_plain(self.folder / f"{name}.pt")["weights"], metrics_of(self.folder / name)
            weights, metrics = runs.pop(1)
            for ranks, (found, lines) in runs.items():
                with self.subTest(ranks=ranks, mode=mode, accumulate=accumulate):
                    self.assertLess((weights - found).abs().max(), 1e-10)
                    for one, other in zip(metrics, lines, strict=True):
                        for key in {"loss", "hits"} & one.keys():
                            self.assertAlmostEqual(one[key], other[key], delta=1e-10)


if __name__ == "__main__":
    unittest.main()
