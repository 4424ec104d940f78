"""What the tools share: the words of a command, the project's own package, and a trainer that is only tried."""

from __future__ import annotations

import importlib
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.config.errors import UserError
from common.config.load import load_config
from common.config.schema import Config

if TYPE_CHECKING:
    from types import ModuleType

    from common.engine import BaseTrainer


def make_parser(name: str, description: str) -> ArgumentParser:
    """Return a parser for ``python -m common.tools.<name>``, whose flags are never abbreviated."""
    return ArgumentParser(
        f"python -m common.tools.{name}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def read_words(parser: ArgumentParser, argv: list[str] | None) -> tuple[Namespace, Config]:
    """Return a tool's own flags and, from all others, a config, as ``train.py`` would read it."""
    parser.epilog = "All other flags are those of train.py: --config FILE [--key value ...]"
    words, rest = parser.parse_known_args(argv)
    return words, load_config(rest)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Show a UserError as one line, and exit with its code."""
    try:
        yield
    except UserError as error:
        print(f"{Path(sys.argv[0]).stem}: error:", *str(error).split(), file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def import_package() -> ModuleType:
    """Import the package of this project, whatever its name, so that what it registers is known.

    Returns:
        Its module ``trainer``.

    Raises:
        UserError: No folder here has a ``trainer.py``.
    """
    found = [path.parent.name for path in sorted(Path.cwd().glob("*/trainer.py")) if path.parent.name != "common"]
    if not found:
        raise UserError(f"{Path.cwd()}: no package with a trainer.py here; start the tool in the project's folder")
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(f"{found[0]}.trainer")


@contextmanager
def tried_trainer(config: Config) -> Iterator[BaseTrainer]:
    """Give the trainer of a config, in a folder that goes away afterwards."""
    from common.run.launch import launch

    with tempfile.TemporaryDirectory() as folder, launch(config, lambda config: (Path(folder), None)) as session:
        yield import_package().TRAINERS[config.trainer.mode](config, session)


def make_steps(trainer: BaseTrainer, batches: Iterable[dict]) -> Iterator[float]:
    """Make one optimizer step for each batch and yield its loss; no schedule, no accumulation.

    Raises:
        UserError: The trainer has several optimizers.
    """
    from torch.nn.utils import clip_grad_norm_

    from common.data.batches import find_transform
    from common.run.device import in_precision, move_to

    if len(trainer.optimizers) > 1:
        raise UserError("the tool tries one optimizer, and this trainer has several")
    step = in_precision(trainer.train_step, trainer.device, trainer.config.trainer.precision)
    transform, parameters = find_transform(trainer.train_loader), list(trainer.model.parameters())
    limit = trainer.config.optim.clip_gradients
    trainer.model.train()
    for iteration, batch in enumerate(batches):
        batch = move_to(batch, trainer.device)
        loss = step(0, iteration, transform(batch) if transform else batch)[1]["loss"]
        trainer.optimizer.zero_grad()
        loss.backward()
        if limit and trainer.config.optim.clip_by == "norm":
            clip_grad_norm_(parameters, limit)
        trainer.optimizer.step()
        yield loss.item()
