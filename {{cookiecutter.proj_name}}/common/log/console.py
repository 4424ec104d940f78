"""One log for the run: the console and ``train.log``, written by rank 0."""

import sys
from collections.abc import Iterable
from pathlib import Path

from loguru import logger
from tqdm import tqdm

from common.config.secrets import hide
from common.run.distributed import get_rank

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_FORMAT = "{time:HH:mm:ss} | {level: <7} | {message}"
_FILE_FORMAT = "{time:YYYY-MM-DD HH:mm:ss} | {level: <7} | {message}"


def setup_logger(file: Path | None = None, secrets: Iterable[str] = ()) -> None:
    """Send the log to the console and append it to a file, if one is given.

    Lines pass through tqdm, so that they do not tear the progress bar. Ranks other than 0 show errors only, with their
    rank in front. ``secrets`` are hidden in every line.
    """
    secrets = set(secrets)
    logger.remove()
    logger.configure(patcher=lambda record: record.update(message=hide(record["message"], secrets)))
    if get_rank() != 0:
        logger.add(sys.stderr, level="ERROR", format=f"rank {get_rank()} | {_FORMAT}")
        return
    logger.add(
        lambda line: tqdm.write(line, file=sys.stderr, end=""),
        level="INFO",
        format=_FORMAT,
        colorize=sys.stderr.isatty(),
        filter=lambda record: not (record["extra"].get("in_bar") and sys.stderr.isatty()),
    )
    if file is not None:
        logger.add(file, level="DEBUG", format=_FILE_FORMAT)


def add_log(message: str, level: str = "INFO", in_bar: bool = False) -> None:
    """Write a line to the log.

    Args:
        message: The text.
        level: DEBUG (file only), INFO, WARNING or ERROR, in upper or lower case.
        in_bar: The progress bar shows the same, so a terminal does not need the line.
    """
    if level.upper() not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, found {level!r}")
    logger.bind(in_bar=in_bar).opt(depth=1).log(level.upper(), "{}", message)
