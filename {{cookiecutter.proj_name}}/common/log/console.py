"""What rank 0 shows of a run: one log on the console and in ``train.log``, and a progress bar."""

import errno
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from loguru import logger
from tqdm import tqdm

from common.config.errors import RunError
from common.config.secrets import hide
from common.run.distributed import get_rank

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_DISK = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE")
DISK_ERRORS = {getattr(errno, name, None) for name in _DISK}
_LINE = "{level: <7} | {message}"
_default, _stream, _sinks = 0, sys.stderr, list[int]()  # loguru's own sink, where it writes to, and our sinks
_complained: dict[str, float] = {}  # when, by what about


def setup_logger(file: Path | None = None, secrets: Iterable[str] = ()) -> None:
    """Send the log to the console and append it to a file, if one is given; ``secrets`` are hidden in every line.

    Lines pass through tqdm, so that they do not tear the progress bar. Ranks other than 0 show errors only, with their
    rank in front. Sinks of loguru that others have added stay.
    """
    _remove_sinks()
    secrets, is_first = set(secrets), get_rank() == 0
    _sinks.append(
        logger.add(
            lambda line: tqdm.write(hide(line, secrets), file=sys.stderr, end=""),
            level="INFO" if is_first else "ERROR",
            format=("" if is_first else f"rank {get_rank()} | ") + "{time:HH:mm:ss} | " + _LINE,
            filter=lambda record: not (record["extra"].get("in_bar") and sys.stderr.isatty()),
        )
    )
    if file is not None and is_first:
        log = _LogFile(file, secrets)
        _sinks.append(logger.add(log, level="DEBUG", format="{time:YYYY-MM-DD HH:mm:ss} | " + _LINE))


def _remove_sinks() -> None:
    while _sinks:
        with suppress(ValueError):  # somebody else has removed it
            logger.remove(_sinks.pop())


@contextmanager
def own_log() -> Iterator[None]:
    """Let ``setup_logger`` take the place of loguru's own sink inside the ``with``."""
    global _default
    try:
        logger.remove(_default)
        is_there = True
    except ValueError:
        is_there = False
    try:
        yield
    finally:
        _remove_sinks()
        if is_there:
            _default = logger.add(_stream)


def add_log(message: str, level: str = "INFO", in_bar: bool = False) -> None:
    """Write a line: DEBUG (file only), INFO, WARNING or ERROR; on a terminal the bar replaces what is ``in_bar``."""
    if level.upper() not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, found {level!r}")
    logger.bind(in_bar=in_bar).opt(depth=1).log(level.upper(), "{}", message)


def complain(about: str, text: str) -> None:
    """Show on the console that something cannot be written, at most once a minute for each subject."""
    now = time.monotonic()
    if now - _complained.get(about, -60) >= 60:
        _complained[about] = now
        with suppress(OSError):  # of a console that is not protected
            tqdm.write(f"{datetime.now():%H:%M:%S} | ERROR   | {text}", file=sys.stderr)


@contextmanager
def despite_disk_errors() -> Iterator[None]:
    """Go on with the run if what is inside the ``with`` cannot write a file, such as a picture, to a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        complain("records", f"{error.filename or 'a picture or table'}: {error.strerror}; training goes on without it")


class GrowingFile:
    """A file that is appended to. What cannot be written, such as to a full disk, waits in memory until it can be."""

    def __init__(self, path: Path):
        self._path, self._waiting = path, b""
        self._file: Any = None
        self.write(b"")

    def write(self, data: bytes) -> None:
        """Append."""
        self._waiting += data
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            complain("records", f"{self._path}: {error.strerror}; what is recorded waits until it can be written")

    @property
    def size(self) -> int:
        """Bytes, with those that wait."""
        return (self._file.tell() if self._file else 0) + len(self._waiting)

    def close(self) -> None:
        """Close the file. Raise a RunError if something still waits, unless another error is on its way."""
        self.write(b"")
        if self._file:
            self._file.close()
        if self._waiting and sys.exc_info()[0] is None:
            raise RunError(f"{self._path}: {len(self._waiting):,} bytes at its end could not be written")


class _LogFile:
    """``train.log``, as loguru writes to it and closes it."""

    def __init__(self, path: Path, secrets: set[str]):
        self._file, self._secrets = GrowingFile(path), secrets

    def write(self, message: str) -> None:
        self._file.write(hide(message, self._secrets).encode(errors="backslashreplace"))

    def stop(self) -> None:
        with suppress(RunError):
            self._file.close()


class Progress(tqdm):
    """A bar over all iterations of a run, of which ``done`` are made, and a clock; rank 0 shows it on a terminal."""

    def __init__(self, total: int, done: int = 0):
        hidden = get_rank() != 0 or not sys.stderr.isatty()
        super().__init__(total=total, initial=done, disable=hidden, dynamic_ncols=True, unit="it", leave=False)
        self._speed = self._share = 0.0
        self.restart_clock(done)

    def measure(self, done: int) -> dict[str, float]:
        """Return ``iterations_per_second`` since the last measurement, and ``data_wait``, the share of time waited."""
        elapsed = max(time.perf_counter() - self._marked_at, 1e-9)
        self._speed, self._share = (done - self._marked) / elapsed, self.waited / elapsed
        self.restart_clock(done)
        return {"iterations_per_second": self._speed, "data_wait": self._share}

    def restart_clock(self, done: int) -> None:
        """Start the next measurement here: the time before, as of a validation, does not count."""
        self._marked_at, self._marked, self.waited = time.perf_counter(), done, 0.0

    def describe(self) -> str:
        """Return the last measurement and the remaining time: ``412 it/s, data 4%, eta 0:01:05``."""
        left = timedelta(seconds=round(min((self.total - self._marked) / max(self._speed, 1e-9), 1e12)))
        return f"{self._speed:.3g} it/s, data {self._share:.0%}, eta {left}"
