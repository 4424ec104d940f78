"""Signals that end a run: noted when they arrive, obeyed where the state is sound."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.config.console import is_command, write_at_once
from common.run.distributed import get_rank

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
if os.name == "posix" and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    ENDING.remove(signal.SIGHUP)  # under nohup
_REPEATED = 1.0  # seconds: a launcher passes Ctrl-C on to processes that have had it from the terminal already

SAVED = 75  # EX_TEMPFAIL of sysexits.h: start the same command again, and it resumes
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Interrupted(SystemExit):
    """The end of a run by a signal, after its state is saved if there is any; exits by ``INTERRUPTED`` or ``SAVED``."""

    def __init__(self, number: int):
        super().__init__(INTERRUPTED if number == signal.SIGINT else SAVED)
        self.name = signal.Signals(number).name


@contextmanager
def handling(handler: Callable[[int], None] | None) -> Iterator[None]:
    """Let a function handle the signals that end a run, inside the ``with`` and in this process's main thread alone.

    With None they end the process as the system does, while it waits where Python cannot handle them. A command that
    leaves by ``Interrupted`` has saved and is about to exit: it ignores the signal of a launcher that saw another
    process exit first.
    """
    owner, is_main = os.getpid(), threading.current_thread() is threading.main_thread()

    def handle(number: int, _frame: object) -> None:
        if handler and os.getpid() == owner:
            handler(number)
        else:
            ignore_signals()  # in a forked process, such as a loader's worker

    before = {number: signal.signal(number, handle if handler else signal.SIG_DFL) for number in ENDING if is_main}
    try:
        yield
    except Interrupted:
        if is_command():
            before |= {number: signal.SIG_IGN for number in before if number != signal.SIGINT}
        raise
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def end_at_once(number: int) -> None:
    """End a run that has nothing to save yet."""
    raise Interrupted(number)


class StopRequest:
    """Notes the first signal as ``number``, and does nothing else; a second Ctrl-C leaves a run at once."""

    def __init__(self):
        self.number: int | None = None
        self._since = 0.0

    def note(self, number: int) -> None:
        """Handle a signal."""
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            if get_rank() == 0:
                write_at_once(f"{signal.Signals(number).name}: saving after this step\n")
        elif number == signal.SIGINT and time.monotonic() - self._since > _REPEATED:
            if not is_command():
                raise KeyboardInterrupt
            os._exit(INTERRUPTED)


def end_with_parent(number: int) -> None:
    """Ask Linux for a signal when the process that started this one ends, however that happens."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(number))


def ignore_child_exits() -> None:
    """Remove a handler that raises wherever Python may be when a child process dies, such as torch's."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def ignore_signals() -> None:
    """Let a helper process outlive a signal to its whole group; a second SIGTERM ends one that hangs."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
