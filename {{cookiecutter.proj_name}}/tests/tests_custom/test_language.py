"""The example of a language model: its parts, and its commands on a small folder of texts."""

import csv
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from torch.nn import functional

from common.config.errors import UserError
from common.data import make_loader
from tests import FULL, slow
from tests.compare import differences
from tests.tests_common.processes import run_script
from custom.datasets.text_dataset import TextDataset
from custom.losses.next_token_loss import NextToken
from custom.metrics.bits_per_byte_metric import BitsPerByte
from custom.models.gpt_model import GPT

PROJECT = Path(__file__).parents[2]
WORDS = "for while if else return import class def in not and or None True False self".split()
ALONE = not (PROJECT / "configs/language.yaml").exists()  # then it is the only example
CONFIG, EVAL_CONFIG = (
    ("configs/default.yaml", "configs/eval.yaml") if ALONE else ("configs/language.yaml", "configs/eval_language.yaml")
)
KILLS = 5 if FULL else 1
SMALL = ["--batch_size", "6", "--model.width", "32", "--model.depth", "2", "--model.heads", "2"]
BLOCKS = [
    "--model.context",
    "32",
    *(word for split in ("train", "val") for word in (f"--dataset.{split}.context", "32")),
]

# Train on all ranks, and tell a digest of each rank's weights.
WEIGHTS = """
    import hashlib, sys
    from common import launch, load_config
    from common.run.distributed import gather

    config = load_config(sys.argv[1:])
    import custom
    with launch(config) as session:
        trainer = custom.build_trainer(config, session)
        trainer.run()
        weights = [value.numpy().tobytes() for value in trainer.forms.bare["main"].state_dict().values()]
        print("DIGESTS", *gather(hashlib.sha256(b"".join(weights)).hexdigest()))
"""


class TextsTest(unittest.TestCase):
    """A folder of texts."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.texts = self.folder / "texts"
        self.texts.mkdir()
        draw = random.Random(0)
        for i in range(40):
            lines = (" ".join(draw.choices(WORDS, k=8)) for _ in range(30))
            (self.texts / f"{i:02}.py").write_text("\n".join(lines) + "\n")

    def make(self, split="train", context=32):
        return TextDataset(str(self.texts), split, context, cache=str(self.folder / "cache"))


class TestData(TextsTest):
    def test_a_held_out_text_is_read_from_end_to_end_once(self):
        data = self.make("val")
        whole = data.corpus.tokens.tolist()
        samples = [data[i] for i in range(len(data))]
        self.assertEqual(
            sum((sample["target"].tolist() for sample in samples[:-1]), []), whole[1 : 1 + 32 * (len(data) - 1)]
        )
        targets = torch.cat([sample["target"] for sample in samples])
        tokens = torch.cat([sample["tokens"] for sample in samples])
        self.assertEqual(targets[targets >= 0].tolist(), whole[1:])
        self.assertEqual(tokens[targets >= 0].tolist(), whole[:-1])
        self.assertEqual(sum(sample["bytes"].item() for sample in samples), len(whole) - 1)
        self.assertTrue(0 < (samples[-1]["target"] >= 0).sum() < 32)

    def test_training_blocks_follow_from_seed_epoch_and_index(self):
        def read(epoch, start=0, batch_size=4, seed=3):
            loader = make_loader(self.make(), batch_size, training=True, seed=seed)
            loader.batch_sampler.set_position(epoch, start)
            return torch.cat([batch["tokens"] for batch in loader])

        first = read(0)
        self.assertTrue(read(0).equal(first))
        self.assertTrue(read(0, start=5).equal(first[20:]))
        self.assertTrue(read(0, batch_size=7).equal(first))
        self.assertFalse(read(1).equal(first))
        self.assertFalse(read(0, seed=4).equal(first))

    def test_a_training_block_lies_in_its_stretch(self):
        data = self.make()
        whole = bytes(data.corpus.tokens)
        places = [whole.index(bytes(data[10]["tokens"].tolist())) for _ in range(200)]
        self.assertTrue(min(places) >= 320 and max(places) <= 351 and len(set(places)) > 25)
        for i in (0, len(data) - 1):
            self.assertEqual(int((data[i]["target"] >= 0).sum()), 32)

    def test_a_text_shorter_than_a_block(self):
        data = self.make(context=10**6)
        self.assertEqual((len(data), int(data[0]["bytes"])), (1, data.corpus.length - 1))

    def test_a_wrong_split(self):
        with self.assertRaisesRegex(UserError, "split must be one of train, val, eval, found 'test'"):
            self.make("test")


class TestParts(unittest.TestCase):
    def test_bits_per_byte_of_uneven_blocks(self):
        torch.manual_seed(0)
        logits, target = torch.randn(3, 4, 9).double(), torch.randint(9, (3, 4))
        target[2, 1:] = -100
        size = torch.tensor([4.0, 4.0, 1.0]) * 2.5  # bytes of each block, where a token stands for 2.5
        metric = BitsPerByte()
        metric.update({"logits": logits[:2]}, {"target": target[:2], "bytes": size[:2]})
        metric.update({"logits": logits[2:]}, {"target": target[2:], "bytes": size[2:]})
        nats = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
        self.assertAlmostEqual(metric.compute(), nats.item() / math.log(2) / 22.5, places=6)
        one = metric.measure({"logits": logits}, {"target": target, "bytes": size})
        self.assertAlmostEqual((one * size).sum().item() / 22.5, metric.compute(), places=6)
        metric.reset()
        self.assertTrue(math.isnan(metric.compute()))

    def test_loss(self):
        logits, target = torch.randn(2, 3, 5), torch.tensor([[1, 2, -100], [0, 4, 3]])
        found = NextToken()({"logits": logits}, {"target": target})
        expected = functional.cross_entropy(logits.flatten(0, 1)[[0, 1, 3, 4, 5]], torch.tensor([1, 2, 0, 4, 3]))
        torch.testing.assert_close(found, expected)

    def test_model(self):
        model = GPT(vocab_size=50, context=16, width=24, depth=2, heads=3)
        tokens = torch.randint(50, (2, 7))
        self.assertEqual(model(tokens).shape, (2, 7, 50))
        self.assertNotIn("head", " ".join(model.state_dict()))  # it is the embedding
        model(tokens).sum().backward()
        self.assertTrue(all(parameter.grad is not None for parameter in model.parameters()))


class TestCommands(TextsTest):
    def run_command(self, *words, expect=0):
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        done = subprocess.run([sys.executable, *words], cwd=PROJECT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, expect, done.stderr)
        return done.stderr

    def flags(self, name, *flags):
        """Return the flags of a short run on the texts."""
        cache = [
            word for split in ("train", "val") for word in (f"--dataset.{split}.cache", str(self.folder / "cache"))
        ]
        progress = ["--progress.epoch", "2", "--progress.iters_per_epoch", "12", "--progress.iter_loss", "1"]
        places = ["--gpu_ids", "-1", "--dir.expr_dir", str(self.folder), "--dir.data_dir", str(self.texts)]
        keys = [*places, *cache, *progress, *SMALL, *BLOCKS, "--name", name, *flags]
        return ["--config", str(PROJECT / CONFIG), *keys]

    def train(self, name, *flags, expect=0):
        return self.run_command("train.py", *self.flags(name, *flags), expect=expect)

    def losses(self, name):
        lines = map(json.loads, (self.folder / name / "metrics.jsonl").read_text().splitlines())
        return [(line["split"], line["step"], line["loss"]) for line in lines if "loss" in line]

    def test_a_sample_in_the_log_at_each_validation_and_an_evaluation(self):
        said = self.train("small")
        samples = re.findall(r"epoch (\d) \| sample\n", (self.folder / "small/train.log").read_text())
        self.assertEqual(samples, ["0", "1"])
        self.assertIn("best         bits_per_byte", said)
        results = self.folder / "results"
        flags = ["--model_pt", str(self.folder / "small"), "--dir.eval_dir", str(results), "--gpu_ids", "-1", *SMALL]
        flags += ["--dir.data_dir", str(self.texts), "--dataset.eval.cache", str(self.folder / "cache")]
        flags += ["--dataset.eval.context", "32", "--model.context", "32"]
        self.run_command("evaluate.py", "--config", EVAL_CONFIG, *flags)
        with (results / "samples.csv").open(newline="") as file:
            values = [float(row["bits_per_byte"]) for row in csv.DictReader(file)]
        data = self.make("eval")
        sizes = [data[i]["bytes"].item() for i in range(len(data))]
        mean = sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)
        self.assertAlmostEqual(json.loads((results / "summary.json").read_text())["bits_per_byte"], mean, places=5)
        texts = (results / "samples.txt").read_text().split("\n\n-----\n\n")
        self.assertEqual(len(texts), 3)
        self.assertTrue(all(map(str.startswith, texts, ("", "def ", "class "))))

    def test_mistakes_in_one_line(self):
        cases = {
            "model.context: 16 tokens, but a block of the data set has 32": ["--model.context", "16"],
            "model.vocab_size: bytes need 256, found 100": ["--model.vocab_size", "100"],
            "nowhere: no such folder of texts": ["--dir.data_dir", "nowhere"],
            "dataset.train: TextDataset: context must be at least 1, found 0": ["--dataset.train.context", "0"],
            "model: GPT: heads must divide width, found 5 and 32": ["--model.heads", "5"],
        }
        for i, (message, flags) in enumerate(cases.items()):
            with self.subTest(message):
                said = self.train(f"wrong{i}", *flags, expect=2)
                self.assertIn(message, said)
                self.assertNotIn("Traceback", said)

    def test_killed_and_resumed(self):
        saves = ["--progress.iter_save_checkpoint", "2", "--trainer.accumulate", "2"]
        self.train("whole", *saves)
        flags = self.flags("killed", *saves, "--resume", "auto")
        draw = random.Random(0)
        for _ in range(KILLS):
            command = [sys.executable, "train.py", *flags]
            with subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) as process:
                for line in process.stderr:
                    if "iteration" in line and draw.random() < 0.2:
                        process.kill()
                        break
        self.run_command("train.py", *flags)
        self.assertEqual(list(differences(self.folder / "whole", self.folder / "killed")), [])

    def test_two_ranks_hold_the_same_weights(self):
        said = run_script(self.folder, WEIGHTS, 2, *self.flags("ranks")).stdout
        digests = re.search(r"DIGESTS (\w+) (\w+)", said)
        self.assertEqual(digests[1], digests[2])
        self.train("alone", "--batch_size", "12")
        self.compare("alone", "ranks", 1e-5)

    def compare(self, expected, found, within):
        """Check that two runs logged the same losses at the same steps."""
        one, other = self.losses(expected), self.losses(found)
        self.assertEqual([line[:2] for line in other], [line[:2] for line in one])
        for (split, step, loss), (*_, again) in zip(one, other, strict=True):
            self.assertAlmostEqual(again, loss, delta=within, msg=f"{found}, {split} {step}")

    @slow
    def test_every_strategy_gives_the_same_losses(self):
        self.train("ddp", "--dist.nproc", "2")
        ways = {
            "fsdp": ["--dist.strategy", "fsdp"],
            "tp": ["--dist.strategy", "tp", "--batch_size", "12"],
            "checkpointing": ["--trainer.activation_checkpointing", "true"],
            "compiled": ["--trainer.compile", "true"],
            "fsdp_checkpointing": ["--dist.strategy", "fsdp", "--trainer.activation_checkpointing", "true"],
        }
        for name, flags in ways.items():
            with self.subTest(name):
                self.train(name, "--dist.nproc", "2", *flags)
                self.compare("ddp", name, 1e-5)

    @slow
    def test_learns_the_standard_library(self):
        flags = ["--config", CONFIG, "--gpu_ids", "-1", "--dir.expr_dir", str(self.folder)]
        said = self.run_command("train.py", *flags)
        self.assertLessEqual(float(re.search(r"best +bits_per_byte ([\d.]+)", said)[1]), 2.6)


if __name__ == "__main__":
    unittest.main()
