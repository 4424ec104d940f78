"""Where data and models are, and in what precision they compute; strategies of whole models."""

import unittest
from collections import namedtuple

import torch
from torch import nn

from common.config.errors import UserError
from common.config.schema import Config, DistConfig, TrainerConfig
from common.run.strategy import Models, Strategy, choose_strategy, in_precision, make_strategy, move_to
from tests.tests_common.processes import Net

CPU = torch.device("cpu")
Pair = namedtuple("Pair", ["left", "right"])


class TestChoice(unittest.TestCase):
    """From config and number of processes to a strategy."""

    def test_auto(self):
        self.assertEqual([choose_strategy(DistConfig(), processes) for processes in (1, 2)], ["none", "ddp"])

    def test_what_does_not_go_together(self):
        for processes, keys, message in (
            (2, {"strategy": "none"}, "none trains in one process, found 2"),
            (2, {"strategy": "dp"}, "dp trains in one process, found 2"),
            (4, {"strategy": "ddp", "tp_size": 2}, "tp_size: goes with strategy fsdp or tp, found ddp"),
            (2, {"shard_size": 2}, "go with strategy fsdp, found ddp"),
            (2, {"cpu_offload": True}, "go with strategy fsdp, found ddp"),
        ):
            with self.subTest(keys), self.assertRaisesRegex(UserError, message):
                choose_strategy(DistConfig(**keys), processes)


class TestOneProcess(unittest.TestCase):
    """With one process there is mostly no wrapper."""

    def test_the_model_itself(self):
        model = nn.Linear(1, 1)
        for name in ("none", "ddp"):
            self.assertIs(make_strategy(name, Config(), CPU).wrap(model), model)
        self.assertIs(Strategy().place(model, Config()), model)
        models = Models(Config())
        models.bare["main"] = model
        models.wrap(Strategy("ddp"), mode=False)
        models.sync_gradients(False)
        self.assertIs(models.wrapped["main"], model)
        self.assertFalse(hasattr(model, "require_backward_grad_sync"))

    def test_data_parallel(self):
        model = make_strategy("dp", Config(gpu_ids=-1), CPU).wrap(nn.Linear(1, 1))
        self.assertIsInstance(model, nn.DataParallel)
        self.assertEqual(model(torch.ones(3, 1)).shape, (3, 1))

    def test_sync_batchnorm_is_for_gpus(self):
        with self.assertRaisesRegex(UserError, "dist.sync_batchnorm: torch has it on GPUs only, found cpu"):
            Strategy().place(nn.BatchNorm1d(1), Config(dist=DistConfig(sync_batchnorm=True)))

    def test_channels_last(self):
        config = Config(trainer=TrainerConfig(channels_last=True))
        model = Strategy().place(nn.Conv2d(2, 2, 3), config)
        self.assertTrue(model.weight.is_contiguous(memory_format=torch.channels_last))
        with self.assertRaisesRegex(UserError, "channels_last: is for images, and Conv3d has weights of 5 dimensions"):
            Strategy().place(nn.Conv3d(1, 1, 1), config)


class TestActivationCheckpointing(unittest.TestCase):
    """Less memory, the same gradients."""

    CONFIG = Config(trainer=TrainerConfig(activation_checkpointing=True))

    def test_recomputed_to_the_same_gradients(self):
        torch.manual_seed(0)
        model, x = Net(), torch.randn(5, 4)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda x: x):
            model(x).sum().backward()
        expected, usual = [parameter.grad.clone() for parameter in model.parameters()], len(kept)
        kept.clear()
        model.zero_grad()
        model = Strategy().place(model, self.CONFIG)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda x: x):
            loss = model(x).sum()
            self.assertLess(len(kept), usual)
        loss.backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            self.assertTrue(parameter.grad.equal(gradient))

    def test_a_model_without_blocks(self):
        with self.assertRaisesRegex(UserError, r"activation_checkpointing: needs a method blocks\(\) of Linear"):
            Strategy().place(nn.Linear(1, 1), self.CONFIG)


class TestMove(unittest.TestCase):
    """Nested data goes to a device; the meta device stands for any other."""

    def test_nested(self):
        data = {"a": [torch.ones(1), "text"], "b": Pair(torch.ones(2), 3), "c": (torch.ones(3), None)}
        moved = move_to(data, torch.device("meta"))
        self.assertEqual([moved["a"][0].device.type, moved["a"][1]], ["meta", "text"])
        self.assertIsInstance(moved["b"], Pair)
        self.assertEqual([moved["b"].left.device.type, moved["b"].right], ["meta", 3])
        self.assertIsInstance(moved["c"], tuple)
        self.assertEqual([moved["c"][0].shape, moved["c"][1]], [(3,), None])
        self.assertEqual(data["a"][0].device.type, "cpu")


class TestPrecision(unittest.TestCase):
    """The dtype in which a function computes."""

    def test_dtypes(self):
        layer, cpu = torch.nn.Linear(2, 2), torch.device("cpu")
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
            self.assertEqual(in_precision(layer, cpu, name)(torch.ones(1, 2)).dtype, dtype)

    def test_fp32_is_the_function_itself(self):
        self.assertIs(in_precision(len, torch.device("cpu"), "fp32"), len)


if __name__ == "__main__":
    unittest.main()
