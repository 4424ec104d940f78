"""Shards: a whole checkpoint is read from them, a damaged one is found, and no code is run."""

import os
import pickle
import tempfile
import unittest
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from common.config.errors import UserError
from common.config.schema import DistConfig
from common.sharding import ShardedStrategy
from common.sharding.files import read_stored
from common.state.checkpoint import Checkpointer
from common.state.file import SHARDS, find_fault, read_checkpoint, read_plain, write_durably


class Exploit:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class ShardedTest(unittest.TestCase):
    """A process group of one, and a model and an optimizer whose tensors are sharded in it."""

    @classmethod
    def setUpClass(cls):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    @classmethod
    def tearDownClass(cls):
        dist.destroy_process_group()

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.strategy = ShardedStrategy("fsdp", torch.device("cpu"), DistConfig(strategy="fsdp"))
        self.model, self.optimizer = self.make()
        self.model(torch.ones(2, 3)).sum().backward()
        self.optimizer.step()

    def make(self):
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        return model, torch.optim.AdamW(model.parameters(), fused=True)

    def checkpointer(self, model, optimizer, **keys):
        parts = {
            "model": self.strategy.model_part(model),
            "optimizer": self.strategy.optimizer_part(optimizer),
        }
        return Checkpointer(self.folder, parts, sharded=True, strategy=self.strategy, **keys)

    def save(self, *names, **keys):
        checkpointer = self.checkpointer(self.model, self.optimizer, **keys)
        for name in names:
            checkpointer.save(name)
        checkpointer.close()
        return self.folder / f"{names[-1]}.pt"

    def shards(self):
        return sorted(self.folder.glob(f"*.{SHARDS}"))


class TestShards(ShardedTest):
    """Folders beside the files."""

    def test_everything_comes_back(self):
        path = self.save("latest")
        whole = read_plain(path)
        for name, tensor in self.model.state_dict().items():
            self.assertTrue(whole["model"][name].equal(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor))
        model, optimizer = self.make()
        self.checkpointer(model, optimizer).load(path)
        for one, other in zip(model.parameters(), self.model.parameters(), strict=True):
            self.assertTrue(torch.equal(*self.strategy.local([one, other])))
            moments = [each.state[key]["exp_avg"] for each, key in ((optimizer, one), (self.optimizer, other))]
            self.assertTrue(torch.equal(*self.strategy.local(moments)))

    def test_a_whole_model_takes_them(self):
        path = self.save("latest")
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        Checkpointer(self.folder, {"model": model, "optimizer": optimizer}).load(path)
        for one, other in zip(model.parameters(), self.model.parameters(), strict=True):
            self.assertTrue(one.equal(other.full_tensor()))
            moment = self.optimizer.state[other]["exp_avg"].full_tensor()
            self.assertTrue(optimizer.state[one]["exp_avg"].equal(moment))

    def test_the_files_are_small(self):
        self.assertNotIn("storage", str(read_checkpoint(self.save("latest"), whole=False)["model"]["0.weight"]))
        self.assertEqual(len(self.shards()), 1)

    def test_folders_go_with_the_last_file_that_needs_them(self):
        self.save("iter_000001", "iter_000002", "latest", "iter_000003", keep_last=1)
        self.assertEqual(len(self.shards()), 2)
        left = {path.name for path in self.folder.glob("*.pt")}
        self.assertEqual(left, {"latest.pt", "iter_000003.pt"})
        for path in self.folder.glob("*.pt"):
            self.assertIsNone(find_fault(path))
        (self.folder / f"killed.{SHARDS}").mkdir()
        self.checkpointer(self.model, self.optimizer)
        self.assertEqual(len(self.shards()), 2)

    def test_damage_is_found(self):
        path = self.save("latest")
        for file in sorted(self.shards()[0].iterdir()):
            before = file.read_bytes()
            for after in (before[:-1], before[:9] + bytes([before[9] ^ 4]) + before[10:]):
                file.write_bytes(after)
                self.assertIn("is damaged", find_fault(path))
                with self.assertRaises(UserError):
                    read_plain(path)
            file.unlink()
            self.assertIn("is missing", find_fault(path))
            file.write_bytes(before)
        self.assertIsNone(find_fault(path))

    def test_no_code_is_run(self):
        path = self.save("latest")
        metadata = self.shards()[0] / ".metadata"
        stored = read_checkpoint(path, whole=False)["model"]["0.weight"]
        metadata.write_bytes(pickle.dumps(Exploit(self.folder / "exploited")))
        with self.assertRaisesRegex(OSError, "asks for (posix|nt).mkdir"):
            read_stored({stored: torch.empty(stored.shape)})
        self.assertFalse((self.folder / "exploited").exists())

    def test_getattr_reaches_enumerations_alone(self):
        path = self.save("latest")
        stored = read_checkpoint(path, whole=False)["model"]["0.weight"]
        hostile = b"cbuiltins\ngetattr\n(ctorch.distributed.checkpoint.metadata\nMetadata\nV__init__\ntR."
        (self.shards()[0] / ".metadata").write_bytes(hostile)
        with self.assertRaisesRegex(OSError, "asks for __init__ of"):
            read_stored({stored: torch.empty(stored.shape)})

    def test_what_a_foreign_file_says_of_its_shards(self):
        for said in (3, {"folder": 3, "files": []}, {"folder": "a", "files": {"b": "c"}}, {}):
            write_durably({SHARDS: said}, self.folder / "foreign.pt")
            with self.assertRaises(UserError):
                read_plain(self.folder / "foreign.pt")
            with self.assertRaises(UserError):
                read_checkpoint(self.folder / "foreign.pt")


class TestDistribute(ShardedTest):
    """From whole tensors to sharded ones."""

    def test_by_name_and_shape(self):
        example = self.model[0].weight
        values = {"same": torch.randn(4, 3), "other": torch.randn(2), "number": 3}
        distributed = self.strategy.distribute(values, {"same": example, "other": example, "number": example})
        self.assertIsInstance(distributed["same"], DTensor)
        self.assertEqual(distributed["same"].placements, example.placements)
        self.assertTrue(distributed["same"].full_tensor().equal(values["same"]))
        self.assertIs(distributed["other"], values["other"])
        self.assertEqual(distributed["number"], 3)


if __name__ == "__main__":
    unittest.main()
