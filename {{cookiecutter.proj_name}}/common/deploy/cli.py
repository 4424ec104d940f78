"""What predict.py, export.py and serve.py share: their flags, and how they fail."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from common.config.errors import UserError

if TYPE_CHECKING:
    from common.deploy.predictor import Predictor


class Parser(ArgumentParser):
    """A parser whose flags are never abbreviated, and which reports a mistake in one line.

    Args:
        description: What the script does.
    """

    def __init__(self, description: str):
        super().__init__(
            description=description,
            epilog="--task.<key> VALUE sets a key of the config's section task, which says what the model is given and "
            "what it answers: --task.type SegmentImage.",
            allow_abbrev=False,
        )
        model = "a checkpoint, an experiment's folder, a file that export.py has written, or a folder to publish"
        self.add_argument("--model_pt", required=True, metavar="FILE", help=model)
        self.add_argument("--gpu_ids", type=int, metavar="N", help="a GPU; -1: the CPU (default: the best device)")
        self.add_argument("--config", metavar="FILE", help="the run's config, for a checkpoint that does not hold it")

    def error(self, message: str) -> NoReturn:
        """Report a mistake, and exit."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def parse(self) -> tuple[Namespace, list[str]]:
        """Return the flags of the command line, and those of the config's section ``task``."""
        words, rest = self.parse_known_args()
        for word in rest[::2]:
            if not word.startswith("--task."):
                self.error(f"{word}: unknown flag; --help lists those that there are")
        return words, rest


def positive(text: str) -> int:
    """Return a flag's value as a whole number from 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def open_predictor(words: Namespace, rest: list[str]) -> Predictor:
    """Return the predictor that the flags describe."""
    config: dict[str, Any] = {}
    if words.config or rest:
        from dataclasses import asdict

        from common.config.load import load_config

        given = asdict(load_config([*(["--config", words.config] if words.config else []), *rest]))
        config = given if words.config else {"task": given["task"]}
    from common.deploy.predictor import Predictor
    from common.run.strategy import choose_device

    if config.get("task") is None:
        config.pop("task", None)
    return Predictor.from_checkpoint(words.model_pt, choose_device(words.gpu_ids), config)


@contextmanager
def plain_ends() -> Iterator[None]:
    """End with one line after a UserError, and silently after Ctrl-C or where nobody reads the output any longer."""
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        print(f"{os.path.basename(sys.argv[0])}: error:", *str(error).split(), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at the exit goes there
        raise SystemExit(1) from None
