"""Saving and loading a run's parts: in the background, and so that a good file is always there."""

import gc
import os
import resource
import signal
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from common.config.errors import RunError, UserError
from common.state.checkpoint import Checkpointer, HostCopy, find_checkpoint, find_newest
from common.state.file import find_fault, read_checkpoint, write_durably


class CheckpointTest(unittest.TestCase):
    """Each test has a folder of its own."""

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def make(self, size=2, **keys):
        self.model = nn.Linear(size, 1)
        checkpointer = Checkpointer(self.folder, {"model": self.model}, **keys)
        self.addCleanup(checkpointer._thread.shutdown)
        return checkpointer

    def save(self, checkpointer, *names, value=None):
        """Save the model, with its weights at a value, and wait for the file."""
        if value is not None:
            nn.init.constant_(self.model.weight, value)
        checkpointer.save(*names)
        checkpointer.wait()

    def value_in(self, name):
        return read_checkpoint(self.folder / name)["model"]["weight"].mean().item()

    def names(self):
        return {path.name for path in self.folder.iterdir()}


class TestCheckpointer(CheckpointTest):
    """Saving, loading and pruning."""

    def test_there_and_back(self):
        checkpointer = self.make()
        expected = self.model.weight.clone()
        self.save(checkpointer, "latest", "epoch_001")
        nn.init.zeros_(self.model.weight)
        checkpointer.load(self.folder / "epoch_001.pt")
        self.assertTrue(torch.equal(self.model.weight, expected))
        self.assertEqual(self.names(), {"latest.pt", "epoch_001.pt"})

    def test_what_follows_a_save_does_not_change_it(self):
        checkpointer = self.make()
        written, go = [], mock.Mock()

        def slow(state, path, save):
            go.wait_for_training()
            written.append(state["model"]["weight"].mean().item())
            write_durably(state, path, save)

        with mock.patch("common.state.checkpoint.write_durably", slow):
            go.wait_for_training.side_effect = lambda: nn.init.constant_(self.model.weight, 7.0)
            nn.init.constant_(self.model.weight, 1.0)
            checkpointer.save("latest")
            checkpointer.wait()
        self.assertEqual((written, self.value_in("latest.pt")), ([1.0], 1.0))

    def test_the_one_before_stays(self):
        checkpointer = self.make()
        for value in (1.0, 2.0, 3.0):
            self.save(checkpointer, "latest", value=value)
        self.assertEqual((self.value_in("latest.pt"), self.value_in("previous.pt")), (3.0, 2.0))

    def test_a_damaged_one_never_replaces_the_one_before(self):
        checkpointer = self.make()
        for value in (1.0, 2.0):
            self.save(checkpointer, "latest", value=value)
        (self.folder / "latest.pt").write_bytes(b"damaged")
        self.save(self.make(), "latest", value=3.0)
        self.assertEqual((self.value_in("latest.pt"), self.value_in("previous.pt")), (3.0, 1.0))

    def test_keeps_the_last_numbered_ones_and_all_others(self):
        checkpointer = self.make(keep_last=2)
        for name in ("epoch_009", "best_x", "iter_000095", "epoch_010", "final", "epoch_100"):
            self.save(checkpointer, name)
        self.assertEqual(self.names(), {"best_x.pt", "final.pt", "epoch_010.pt", "epoch_100.pt"})

    def test_which_is_the_last_does_not_depend_on_the_clock(self):
        for value, name in enumerate(("epoch_001", "epoch_002", "epoch_003"), 1):
            self.save(self.make(keep_last=2), "latest", name, value=float(value))
            for path in self.folder.iterdir():  # as if the clock went back, or the folder were copied
                os.utime(path, (1e9 - value, 1e9 - value))
        self.assertEqual(self.names(), {"latest.pt", "previous.pt", "epoch_002.pt", "epoch_003.pt"})
        (self.folder / "latest.pt").unlink()  # its file has another name
        (self.folder / "epoch_009.pt").symlink_to("nowhere")
        self.assertEqual(find_newest(self.folder).name, "epoch_003.pt")
        # Gone back to on purpose: what is saved from here on is newer than what was given up.
        checkpointer = self.make()
        checkpointer.load(self.folder / "epoch_002.pt")
        self.save(checkpointer, "iter_000015")
        self.assertEqual(find_newest(self.folder).name, "iter_000015.pt")

    def test_deletes_nothing_while_the_new_one_is_not_proven(self):
        checkpointer = self.make(keep_last=1, stop_on_error=True)
        self.save(checkpointer, "epoch_001")
        with (
            mock.patch("common.state.checkpoint.find_fault", return_value="it is damaged"),
            self.assertRaises(RunError),
        ):
            self.save(checkpointer, "epoch_002")
        self.assertIn("epoch_001.pt", self.names())

    def test_a_part_that_is_missing(self):
        self.save(self.make(), "latest")
        other = Checkpointer(self.folder, {"model": self.model, "ema": self.model})
        with self.assertRaisesRegex(UserError, "has no 'ema'"):
            other.load(self.folder / "latest.pt")

    def test_a_part_that_does_not_fit(self):
        self.save(self.make(), "latest")
        with self.assertRaisesRegex(UserError, "'model' does not fit this run: .*size mismatch"):
            Checkpointer(self.folder, {"model": nn.Linear(3, 1)}).load(self.folder / "latest.pt")

    def test_leftovers_are_removed_at_the_next_start(self):
        (self.folder / "latest.pt.tmp").write_bytes(b"half")
        self.make()
        self.assertEqual(self.names(), set())

    def test_a_file_system_without_links(self):
        checkpointer = self.make()
        with mock.patch("os.link", side_effect=OSError("no links here")):
            self.save(checkpointer, "latest", "best_x", value=1.0)
            self.save(checkpointer, "latest", value=2.0)
        self.assertEqual([self.value_in(f"{name}.pt") for name in ("latest", "previous", "best_x")], [2.0, 1.0, 1.0])
        self.assertEqual(self.names(), {"latest.pt", "previous.pt", "best_x.pt"})


class TestFullDisk(CheckpointTest):
    """Writes that fail after any number of bytes: a limit on file sizes is a disk that is full there."""

    def limit(self, size):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))

    def test_the_last_good_one_stays_and_training_goes_on(self):
        checkpointer = self.make(size=1000)
        self.save(checkpointer, "latest", value=1.0)
        size = (self.folder / "latest.pt").stat().st_size
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for offset in range(0, size, size // 49):
            self.limit(offset)
            self.save(checkpointer, "latest", value=2.0)
            self.assertEqual(self.value_in("latest.pt"), 1.0)
            self.assertEqual(self.names(), {"latest.pt"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        self.save(checkpointer, "latest", value=3.0)
        self.assertEqual(self.value_in("latest.pt"), 3.0)

    def test_stop(self):
        checkpointer = self.make(size=1000, stop_on_error=True)
        self.save(checkpointer, "latest")
        self.limit(100)
        with self.assertRaisesRegex(RunError, "could not be written: .*File too large; the last good one: latest.pt"):
            self.save(checkpointer, "latest")


class TestKilledSaves(CheckpointTest):
    """A process killed at each step of a save."""

    STAGES = ("builtins.open", "io.BufferedWriter.write", "os.fsync", "os.link", "os.replace", "os.unlink", "os.open")

    def test_a_good_file_at_every_stage(self):
        checkpointer = self.make(keep_last=1)
        self.save(checkpointer, "latest", "epoch_001", value=1.0)
        self.save(checkpointer, "latest", "epoch_002", value=2.0)
        stages, survived = 0, False
        while not survived:
            survived = not self.save_and_die(stages)
            newest = find_newest(self.folder)
            value = self.value_in(newest.name)
            self.assertIn(value, (2.0, 3.0))
            self.assertIsNone(find_fault(self.folder / "latest.pt"))
            again = self.make(keep_last=1)
            self.assertFalse([name for name in self.names() if name.endswith(".tmp")])
            if value == 3.0 and not survived:  # back to where the save began
                self.save(again, "latest", "epoch_002", value=2.0)
            stages += 1
        self.assertGreater(stages, 12)
        self.assertEqual(self.value_in("epoch_003.pt"), 3.0)

    def save_and_die(self, stage):
        """Save in a child that kills itself before that file operation; return whether it came so far."""
        child = os.fork()
        if child == 0:
            gc.disable()  # it may destroy a process group of another test, and wait for threads that no fork has
            self.die_at(stage)
            nn.init.constant_(self.model.weight, 3.0)
            checkpointer = Checkpointer(self.folder, {"model": self.model}, keep_last=1)
            checkpointer._write({"model": self.model.state_dict()}, ("latest", "epoch_003"))
            os._exit(0)
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])

    def die_at(self, stage):
        """Count this process's file operations from here on, and kill it before one of them."""
        left = [stage]

        def counted(function):
            def counting(*arguments, **keys):
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return function(*arguments, **keys)

            return counting

        for name in ("fsync", "link", "replace", "unlink", "open"):
            setattr(os, name, counted(getattr(os, name)))
        opened = Path.open

        class Counting:
            def __init__(self, file):
                self.file, self.write, self.flush = file, counted(file.write), counted(file.flush)

            def __getattr__(self, name):
                return getattr(self.file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

        Path.open = counted(
            lambda path, mode="r", *keys: (Counting if "w" in mode else lambda f: f)(opened(path, mode))
        )


class TestFinding(CheckpointTest):
    """The newest good file."""

    def write(self, name, value, when):
        write_durably({"value": value}, self.folder / name)
        os.utime(self.folder / name, ns=(when, when))

    def damage(self, name):
        path = self.folder / name
        data, when = bytearray(path.read_bytes()), path.stat().st_mtime_ns
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(when, when))

    def test_the_newest_good_one(self):
        for when, name in enumerate(("epoch_001.pt", "previous.pt", "latest.pt")):
            self.write(name, when, when)
        os.utime(self.folder / "epoch_001.pt", ns=(9, 9))  # as after a copy
        self.assertEqual(find_newest(self.folder).name, "latest.pt")
        os.utime(self.folder / "epoch_001.pt", ns=(0, 0))
        self.damage("latest.pt")
        self.assertEqual(find_newest(self.folder).name, "previous.pt")
        self.damage("previous.pt")
        self.assertEqual(find_newest(self.folder).name, "epoch_001.pt")

    @unittest.skipUnless(os.geteuid() == 0, "needs a second user")
    def test_a_folder_that_may_not_be_read(self):
        self.write("latest.pt", 0, 0)
        self.folder.chmod(0o711)
        os.seteuid(65534)
        self.addCleanup(os.seteuid, 0)
        with self.assertRaisesRegex(PermissionError, str(self.folder)):
            find_newest(self.folder)

    def test_none_is_good(self):
        self.assertIsNone(find_newest(self.folder))
        for name in ("latest.pt", "previous.pt"):
            self.write(name, 0, 0)
            self.damage(name)
        with self.assertRaisesRegex(UserError, "none of its 2 checkpoints is whole"):
            find_newest(self.folder)

    def test_a_file_that_was_named_is_never_exchanged(self):
        for when, name in enumerate(("previous.pt", "latest.pt")):
            self.write(name, when, when)
        self.damage("latest.pt")
        self.assertEqual(find_checkpoint(str(self.folder / "latest.pt")).name, "latest.pt")
        with self.assertRaisesRegex(UserError, "its bytes do not have the digest"):
            read_checkpoint(self.folder / "latest.pt")

    def test_where_resume_looks(self):
        file = self.folder / "checkpoints" / "latest.pt"
        file.parent.mkdir()
        write_durably({}, file)
        for given in (file, file.parent, self.folder):
            self.assertEqual(find_checkpoint(str(given)), file)
        file.unlink()
        with self.assertRaisesRegex(UserError, "found no checkpoint in it"):
            find_checkpoint(str(self.folder))


class TestHostCopy(unittest.TestCase):
    """Copies of a state that training does not change: equal, apart, and in memory that is used again."""

    def make(self):
        weight = torch.randn(4, 3)
        return {
            "a": {"w": weight, "tied": weight, "row": weight[1], "empty": torch.empty(0)},
            "list": [1, (torch.ones(2), 2.5), 3],
            "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        }

    def test_equal_and_apart(self):
        state = self.make()
        copy = HostCopy().take(state)
        torch.testing.assert_close(copy, state, rtol=0, atol=0)
        self.assertEqual(copy["last"].stride(), state["last"].stride())
        before = copy["a"]["w"].clone()
        state["a"]["w"].zero_()
        self.assertTrue(torch.equal(copy["a"]["w"], before))

    def test_one_tensor_stays_one(self):
        copy = HostCopy().take(self.make())
        self.assertIs(copy["a"]["w"], copy["a"]["tied"])
        self.assertIsNot(copy["a"]["w"], copy["a"]["row"])

    def test_memory_is_used_again(self):
        copier, state = HostCopy(), self.make()
        first = copier.take(state)["a"]["w"].data_ptr()
        self.assertEqual(copier.take(state)["a"]["w"].data_ptr(), first)
        state["a"]["w"] = torch.randn(7, 3)  # another shape needs other memory
        torch.testing.assert_close(copier.take(state)["a"], state["a"], rtol=0, atol=0)

    def test_parameters(self):
        parameter = torch.nn.Parameter(torch.ones(2))
        self.assertFalse(HostCopy().take({"p": parameter})["p"].requires_grad)
