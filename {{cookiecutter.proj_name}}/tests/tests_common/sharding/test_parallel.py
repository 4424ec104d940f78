"""Strategies: which goes with what. The tests of the engine train by each of them."""

import unittest
from unittest import mock

import torch
from torch import nn

from common.config.errors import UserError
from common.config.schema import DistConfig
from common.sharding.parallel import choose_strategy, make_mesh, place, set_gradient_sync, wrap
from tests.tests_common.engine import toy
from tests.tests_common.sharding.spread import Net

CPU = torch.device("cpu")


class TestChoice(unittest.TestCase):
    """From config and number of processes to a strategy."""

    def test_auto(self):
        self.assertEqual([choose_strategy(DistConfig(), processes) for processes in (1, 2)], ["none", "ddp"])

    def test_what_does_not_go_together(self):
        for processes, keys, message in (
            (2, {"strategy": "none"}, "none trains in one process, found 2"),
            (2, {"strategy": "dp"}, "dp trains in one process, found 2"),
            (4, {"strategy": "tp", "tp_size": 2}, "tp_size: with strategy tp .* 4; fsdp crosses both"),
            (4, {"strategy": "ddp", "tp_size": 2}, "tp_size: goes with strategy fsdp or tp, found ddp"),
            (4, {"strategy": "fsdp", "tp_size": 3}, "dist.tp_size: expected a divisor of 4 processes, found 3"),
            (4, {"strategy": "fsdp", "tp_size": 2, "shard_size": 4}, "shard_size: expected a divisor of 2 .* found 4"),
            (2, {"shard_size": 2}, "go with strategy fsdp, found ddp"),
            (2, {"cpu_offload": True}, "go with strategy fsdp, found ddp"),
        ):
            with self.subTest(keys), self.assertRaisesRegex(UserError, message):
                choose_strategy(DistConfig(**keys), processes)


class TestOneProcess(unittest.TestCase):
    """With one process there is mostly no wrapper."""

    def test_the_model_itself(self):
        model = nn.Linear(1, 1)
        for strategy in ("none", "ddp"):
            self.assertIs(wrap(model, CPU, strategy, [None]), model)
        self.assertIs(place(model, CPU, make_mesh("none", DistConfig(), CPU), toy.make_config()), model)
        set_gradient_sync([model], False)
        self.assertFalse(hasattr(model, "require_backward_grad_sync"))

    def test_data_parallel(self):
        model = wrap(nn.Linear(1, 1), CPU, "dp", [-1])
        self.assertIsInstance(model, nn.DataParallel)
        self.assertEqual(model(torch.ones(3, 1)).shape, (3, 1))

    def test_sync_batchnorm_is_for_gpus(self):
        config = toy.make_config(dist=DistConfig(sync_batchnorm=True))
        with self.assertRaisesRegex(UserError, "dist.sync_batchnorm: torch has it on GPUs only, found cpu"):
            place(nn.BatchNorm1d(1), CPU, None, config)

    def test_channels_last_is_for_images(self):
        with self.assertRaisesRegex(UserError, "channels_last: is for images, and Conv3d has weights of 5 dimensions"):
            place(nn.Conv3d(1, 1, 1), CPU, None, toy.make_config({"channels_last": True}))

    def test_channels_last_is_for_whole_parameters(self):
        config = toy.make_config({"channels_last": True}, dist=DistConfig(strategy="fsdp"))
        with self.assertRaisesRegex(UserError, "channels_last: goes with strategy none, dp or ddp, found fsdp"):
            place(nn.Conv2d(1, 1, 1), CPU, mock.Mock(), config)


class TestActivationCheckpointing(unittest.TestCase):
    """Less memory, the same gradients."""

    def test_recomputed_to_the_same_gradients(self):
        torch.manual_seed(0)
        config, model, x = toy.make_config({"activation_checkpointing": True}), Net(), torch.randn(5, 4)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda x: x):
            model(x).sum().backward()
        expected, usual = [parameter.grad.clone() for parameter in model.parameters()], len(kept)
        kept.clear()
        model.zero_grad()
        model = place(model, CPU, None, config)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda x: x):
            loss = model(x).sum()
            self.assertLess(len(kept), usual)
        loss.backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            self.assertTrue(parameter.grad.equal(gradient))

    def test_a_model_without_blocks(self):
        config = toy.make_config({"activation_checkpointing": True})
        with self.assertRaisesRegex(UserError, r"activation_checkpointing: needs a method blocks\(\) of Linear"):
            place(nn.Linear(1, 1), CPU, None, config)
