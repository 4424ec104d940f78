"""What the tools share: the arguments of a command, the project's own package, and a trainer that is only tried."""

from __future__ import annotations

import importlib
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config.errors import UserError
from common.config.load import load_config
from common.config.schema import Config

if TYPE_CHECKING:
    from common.engine import Trainer


def make_parser(name: str, description: str) -> ArgumentParser:
    """Return a parser for ``python -m common.tools.<name>``, whose flags are never abbreviated."""
    return ArgumentParser(
        f"python -m common.tools.{name}",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def read_args(parser: ArgumentParser, argv: list[str] | None) -> tuple[Namespace, Config]:
    """Return a tool's own flags and, from all others, a config, as ``train.py`` would read it."""
    parser.epilog = "All other flags are those of train.py: --config FILE [--key value ...]"
    args, rest = parser.parse_known_args(argv)
    return args, load_config(rest)


def import_package() -> None:
    """Import the package of this project, whatever its name, so that what it registers is known.

    Raises:
        UserError: No folder here has a folder ``trainers``.
    """
    found = [path.parent.name for path in sorted(Path.cwd().glob("*/trainers"))]
    if not found:
        raise UserError(f"{Path.cwd()}: no package with a folder trainers here; start the tool in the project's folder")
    sys.path.insert(0, str(Path.cwd()))
    importlib.import_module(found[0])


@contextmanager
def tried_trainer(config: Config) -> Iterator[Trainer]:
    """Yield the trainer of a config, prepared, in a folder that is deleted afterwards; it makes plain steps.

    There is no schedule, no accumulation and no log: each learning rate is the one that the config gives.
    """
    from common.config.build import build_trainer
    from common.run.launch import launch

    config = replace(
        config,
        trainer=replace(config.trainer, accumulate=1),
        progress=replace(config.progress, iter_loss=0, save_progress=False),
    )
    with tempfile.TemporaryDirectory() as folder, launch(config, lambda config: (Path(folder), None)) as session:
        import_package()
        trainer = build_trainer(config, session)
        trainer.schedulers.clear()
        for group in groups_of(trainer):
            group["lr"] = group.get("initial_lr", group["lr"])
        trainer.prepare()
        for model in trainer.forms.bare.values():
            model.train()
        yield trainer


def groups_of(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the parameter groups of all optimizers."""
    return [group for optimizer in trainer.optimizers.values() for group in optimizer.param_groups]


def train_on(trainer: Trainer, batches: Iterable[dict]) -> Iterator[float]:
    """Train on each batch, as a run does, and yield its loss; with several optimizers, the sum of their losses."""
    from common.run.strategy import move_to

    for step in trainer.steps.values():
        step.start_epoch(0)
    for iteration, data_dict in enumerate(batches):
        trainer.run_iteration(0, iteration, move_to(data_dict, trainer.device))
        values = trainer.meters.flush()
        yield values["loss"] if "loss" in values else sum(v for k, v in values.items() if k.startswith("loss."))
