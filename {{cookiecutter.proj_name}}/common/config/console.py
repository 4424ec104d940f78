"""The console, which cannot end or disturb a run: closed, full, gone or of another encoding, it loses lines at most."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.config.errors import UserError

_PATIENCE = 1000  # milliseconds in which the reader of a full pipe must take something


class _Console(io.FileIO):
    """A file descriptor that takes what is written to it as long as somebody reads there, and drops the rest."""

    def __init__(self, descriptor: int, name: str, patience: int = _PATIENCE):
        super().__init__(descriptor, "w", closefd=False)
        self.name, self._patience = f"<{name}>", patience

    def write(self, data: Any) -> int:
        try:
            if hasattr(select, "poll"):  # not on Windows
                poll = select.poll()
                poll.register(self, select.POLLOUT)
                is_ready = poll.poll(self._patience)
                self._patience = _PATIENCE if is_ready else 0  # wait once, not for every line
                return os.write(self.fileno(), data[: select.PIPE_BUF]) if is_ready else len(data)
            return os.write(self.fileno(), data)
        except OSError:
            return len(data)


def protect_console() -> None:
    """Let nothing that is printed, logged or warned of raise an error or block, whatever becomes of stdout and stderr.

    What cannot be written is dropped, and a character that the console does not know is escaped. Streams that somebody
    else has put in their place, such as a notebook or a test, stay as they are.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file to be opened, perhaps a checkpoint, would get this number
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        if stream is getattr(sys, f"__{name}__") and not isinstance(raw, _Console):
            buffer, encoding = io.BufferedWriter(_Console(descriptor, name)), stream.encoding if stream else "utf-8"
            stream = io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


_is_command = False


def is_command() -> bool:
    """Return whether this process is a command, which ends with its run, and may be started several times."""
    return _is_command


@contextmanager
def command() -> Iterator[None]:
    """Make what is inside the ``with``, or the decorated function, a command: what ends it is told by an exit code.

    A UserError is one line on stderr, and ``launch`` says which code means what. Elsewhere, as in a notebook, errors
    are raised, and a run leaves its process as it found it.
    """
    global _is_command
    before, _is_command = _is_command, True
    protect_console()
    try:
        yield
    except UserError as error:
        # Split and joined, the message stays on one line whatever a path or a value holds.
        print(f"{Path(sys.argv[0]).name}: error:", *str(error).split(), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    finally:
        _is_command = before


def write_at_once(text: str) -> None:
    """Write to stderr without a lock, a buffer or a wait, as a signal's handler must."""
    with suppress(OSError):  # of a stderr that has been closed
        _Console(2, "stderr", patience=0).write(text.encode(errors="backslashreplace"))
