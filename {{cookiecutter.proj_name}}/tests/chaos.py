"""Kill training at random moments, go on, and compare with a run that nobody killed: python -m tests.chaos --kills 50.

Every set-up trains a small network with augmentation, dropout, batch-norm, a moving average and a warm-up in processes
of its own. SIGKILL goes to the whole process group, loader's workers and half-written files included, or to one rank;
with ``--gently`` the end is a SIGTERM, SIGINT or SIGUSR1 to the group, or an exception in the user's code, and the exit
code and the time until the exit are looked at, too. In the end weights, optimizer, average, random numbers,
``metrics.jsonl`` and TensorBoard's scalars must be equal, bit for bit.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from common.config.console import command
from common.config.schema import DistConfig
from common.engine import BaseTrainer
from common.run.launch import launch
from common.state.checkpoint import find_newest
from common.state.file import read_checkpoint
from tests.compare import differences, metrics_of
from tests.tests_common.engine import rich

SAVE_EVERY = 5
PROGRESS = {"epoch": 30, "iter_loss": 1, "iter_val": 31, "iter_save_checkpoint": SAVE_EVERY}
WORKERS = {"0": (0, False), "2": (2, False), "2 persistent": (2, True)}
GENTLE = {signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGUSR1: 75, None: 1}  # None: an exception
# Where an end comes, and in how many calls at most.
HOOKS = {
    "before_train_epoch": 20,
    "before_train_step": 200,
    "after_backward": 200,
    "after_train_step": 200,
    "after_val_step": 40,
}
SET_UPS = list(itertools.product(("epoch", "iter"), (1, 3), WORKERS, ("fp32", "bf16")))


class Chaos:
    """One set-up: the run that nobody kills, and those that are killed.

    Args:
        folder: Where the experiments go.
        set_up: Mode, accumulation, workers, precision.
        draw: Draws the moments.
        ranks: How many processes train together.
    """

    def __init__(self, folder: Path, set_up: tuple[str, int, str, str], draw: random.Random, ranks: int = 1):
        mode, accumulate, workers, precision = set_up
        worker, self._persistent = WORKERS[workers]
        keys = {"resume": "auto", "dist": DistConfig(timeout=15)}  # what a kill may cost while the ranks meet
        self.config = rich.make_config(mode, accumulate, worker, precision, PROGRESS, **keys)
        self.config = replace(self.config, dir=replace(self.config.dir, expr_dir=str(folder)))
        self.folder, self._draw, self._ranks = folder, draw, ranks
        self.kills = self.repeated = 0
        self.slowest = 0.0
        began = time.monotonic()
        self.finish("whole")
        self._duration = time.monotonic() - began

    def start(self, name: str, end: Callable = lambda trainer: None) -> list[int]:
        """Start training in a process group of its own, whose number is the first rank's, and return all ranks'.

        ``end`` may plan the trainer's end on rank 0.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        processes: list[int] = []
        for rank in range(self._ranks):
            process = os.fork()
            if not process:
                os.setpgid(0, processes[0] if rank else 0)
                if self._ranks > 1:
                    place = {
                        "RANK": rank,
                        "WORLD_SIZE": self._ranks,
                        "LOCAL_RANK": rank,
                        "LOCAL_WORLD_SIZE": self._ranks,
                    }
                    os.environ |= address | {key: str(value) for key, value in place.items()}
                self._train(name, end if rank == 0 else lambda trainer: None)
            processes.append(process)
            with suppress(OSError):  # the process has done so itself
                os.setpgid(process, processes[0])
        return processes

    def _train(self, name: str, end: Callable) -> None:
        log = os.open(self.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        code = 1
        try:
            with command(), launch(replace(self.config, name=name)) as session:
                trainer = rich.TRAINERS[self.config.trainer.mode](self.config, session, self._persistent)
                end(trainer)
                trainer.run()
            code = 0
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def finish(self, name: str) -> None:
        """Train to the end."""
        self._check_done(name, self._wait(self.start(name)))

    def kill(self, name: str) -> bool:
        """Train for a random time and kill all ranks or one; return whether they came to their end before."""
        processes = self.start(name)
        time.sleep(self._draw.uniform(0, self._duration / 2))
        if os.waitid(os.P_PID, processes[0], os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._check_done(name, self._wait(processes))
            return True
        if self._draw.random() < 0.5:
            os.killpg(processes[0], signal.SIGKILL)
        else:
            os.kill(self._draw.choice(processes), signal.SIGKILL)
        began = time.monotonic()
        self._wait(processes)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.kills += 1
        self._measure(name)
        return False

    def interrupt(self, name: str) -> bool:
        """Train until a signal or an exception ends it, and return whether it came to its end before.

        The signal goes to one rank or to all, up to 50 ms apart; the exception is on rank 0.
        """
        number, hook = self._draw.choice(list(GENTLE)), self._draw.choice(list(HOOKS))
        calls = self._draw.randint(1, HOOKS[hook])
        reached, told = os.pipe()

        def end(trainer: BaseTrainer) -> None:
            overridden, left = getattr(trainer, hook), [calls]

            def counting(*arguments: object) -> object:
                left[0] -= 1
                if left[0] == 0:
                    os.write(told, b"!")
                    if number is None:
                        raise ZeroDivisionError("a mistake in the user's code")
                    if len(signalled) == self._ranks == 1:
                        os.killpg(0, number)  # at this very place
                return overridden(*arguments)

            setattr(trainer, hook, counting)

        signalled = list(range(self._ranks))
        if self._ranks > 1 and self._draw.random() < 0.5:
            signalled = [self._draw.choice(signalled)]
        processes = self.start(name, end)
        os.close(told)
        is_reached = os.read(reached, 1) == b"!"
        os.close(reached)
        began = time.monotonic()
        if is_reached and number is not None and self._ranks > 1:
            for rank in self._draw.sample(signalled, len(signalled)):
                with suppress(ProcessLookupError):
                    os.kill(processes[rank], number)
                time.sleep(self._draw.uniform(0, 0.05))
        codes = self._wait(processes)
        if not is_reached:
            self._check_done(name, codes)
            return True
        self.kills += 1
        self.slowest = max(self.slowest, time.monotonic() - began)
        if set(codes) != {GENTLE[number]} or self.slowest > 5:
            what = f"{number and signal.Signals(number).name} in {hook}"
            raise RuntimeError(f"{name}: {what}: exit codes {codes} after {self.slowest:.1f} s")
        return False

    def _wait(self, processes: list[int]) -> list[int]:
        """Wait for the processes, end what they leave, and return their exit codes."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        with suppress(OSError):
            os.killpg(processes[0], signal.SIGKILL)
        return codes

    def _check_done(self, name: str, codes: list[int]) -> None:
        if any(codes):
            log = (self.folder / f"{name}.log").read_text()
            raise RuntimeError(f"{name}: cannot go on, exit codes {codes}\n{log[-4000:]}")

    def _measure(self, name: str) -> None:
        """Follow how many iterations a kill costs."""
        if (self.folder / name / "metrics.jsonl").exists():
            reached = max((line["step"] for line in metrics_of(self.folder / name)), default=0)
            newest = find_newest(self.folder / name / "checkpoints")
            saved = read_checkpoint(newest)["trainer"]["total_iterations"] if newest else 0
            self.repeated = max(self.repeated, reached - saved)

    def run(self, kills: int, gently: bool = False) -> list[str]:
        """Kill so many times, in as many runs as that takes, and return what differs from the whole run."""
        faults = []
        for number in itertools.count():
            name, ended = f"cut{number}", False
            while self.kills < kills and not ended:
                ended = self.interrupt(name) if gently else self.kill(name)
            if not ended:
                self.finish(name)
            faults += differences(self.folder / "whole", self.folder / name)
            if self.kills >= kills:
                return faults


def main(argv: list[str] | None = None) -> int:
    """Return 0 if every run ended equal, 1 if one did not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="kills in all (default 50)")
    parser.add_argument("--set_ups", type=int, default=len(SET_UPS), help=f"how many of the {len(SET_UPS)} set-ups")
    parser.add_argument("--gently", action="store_true", help="by signals and exceptions instead of SIGKILL")
    parser.add_argument("--ranks", type=int, default=1, help="processes that train together (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and of which set-ups come first")
    arguments = parser.parse_args(argv)
    torch.optim.SGD([torch.zeros(1)])  # imports most of torch, once for all processes that are started from here
    draw, faults, kills = random.Random(arguments.seed), [], 0
    set_ups = draw.sample(SET_UPS, arguments.set_ups)
    for i, set_up in enumerate(set_ups):
        with tempfile.TemporaryDirectory() as folder:
            chaos = Chaos(Path(folder), set_up, draw, arguments.ranks)
            found = chaos.run(arguments.kills * (i + 1) // len(set_ups) - kills, arguments.gently)
        kills += chaos.kills
        cost = f"the slowest end took {chaos.slowest:.1f} s"
        if not arguments.gently:
            cost += f", at most {chaos.repeated} iterations repeated (a save every {SAVE_EVERY}, one may be on its way)"
        print(f"{set_up}: {chaos.kills} kills, {len(found)} differences, {cost}", *found, sep="\n  ", flush=True)
        faults += found
    print(f"{kills} kills, {len(faults)} differences")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
