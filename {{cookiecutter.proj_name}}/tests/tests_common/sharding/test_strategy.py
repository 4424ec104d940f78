"""The sharded strategies: what they refuse. test_strategies trains by each of them."""

import unittest

import torch
import torch.distributed as dist
from torch import nn

from common.config.errors import UserError
from common.config.schema import Config, DistConfig, TrainerConfig
from common.run.strategy import choose_strategy, make_strategy

CPU = torch.device("cpu")


class TestChoice(unittest.TestCase):
    def test_what_does_not_go_together(self):
        for processes, keys, message in (
            (4, {"strategy": "tp", "tp_size": 2}, "tp_size: with strategy tp .* 4; fsdp combines both"),
            (4, {"strategy": "fsdp", "tp_size": 3}, "dist.tp_size: expected a divisor of 4 processes, found 3"),
            (4, {"strategy": "fsdp", "tp_size": 2, "shard_size": 4}, "shard_size: expected a divisor of 2 .* found 4"),
        ):
            with self.subTest(keys), self.assertRaisesRegex(UserError, message):
                choose_strategy(DistConfig(**keys), processes)


class TestPlace(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    @classmethod
    def tearDownClass(cls):
        dist.destroy_process_group()

    def place(self, model, **keys):
        config = Config(**keys)
        return make_strategy("fsdp", config, CPU).place(model, config)

    def test_a_sharded_model_is_not_moved_again(self):
        strategy, config = make_strategy("fsdp", Config(), CPU), Config()
        model = strategy.place(nn.Linear(1, 1), config)
        self.assertIs(strategy.move(model), model)
        self.assertTrue(strategy.whole(model.weight).equal(strategy.local([model.weight])[0]))

    def test_channels_last_is_for_whole_parameters(self):
        with self.assertRaisesRegex(UserError, "channels_last: goes with strategy none, dp or ddp, found fsdp"):
            self.place(nn.Conv2d(1, 1, 1), trainer=TrainerConfig(channels_last=True))

    def test_offloading_needs_a_gpu(self):
        with self.assertRaisesRegex(UserError, "dist.cpu_offload: offloads from a GPU, found cpu"):
            self.place(nn.Linear(1, 1), dist=DistConfig(strategy="fsdp", cpu_offload=True))


if __name__ == "__main__":
    unittest.main()
