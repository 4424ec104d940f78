"""Strategies of whole models: which suits which number of processes, and how they place and wrap a model."""

import unittest

import torch
from torch import nn

from common.config.errors import UserError
from common.config.schema import Config, DistConfig, TrainerConfig
from common.run.strategy import Strategy, choose_strategy, make_strategy, set_gradient_sync
from tests.tests_common.processes import Net

CPU = torch.device("cpu")


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
        set_gradient_sync([model], False)
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


if __name__ == "__main__":
    unittest.main()
