"""Check that a model can memorize one batch; one that cannot has a fault in it.

Dropout, label smoothing and changing augmentation are switched off, because they keep a loss from falling to 0.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import TYPE_CHECKING

from common.config.console import command
from common.config.errors import UserError
from common.tools.project import make_parser, read_args, train_on, tried_trainer

if TYPE_CHECKING:
    from torch import nn

    from common.engine import Trainer

LEARNED = "learned by heart"
_PATIENCE = 300  # a loss that has not fallen by 1% in so many steps has stopped falling


@command()
def main(argv: list[str] | None = None) -> None:
    """Print the loss on its way down; exit with 1 unless it falls to the share of the first one."""
    parser = make_parser("overfit", __doc__)
    parser.add_argument("--steps", type=int, default=3000, help="at most (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.1, help="of the first loss (default: %(default)s)")
    args, config = read_args(parser, argv)
    if args.steps < 1 or not 0 < args.share < 1:
        raise UserError("--steps, --share: expected 1 step at least, and a share between 0 and 1")
    with tried_trainer(config) as trainer:
        is_learned, text = overfit(trainer, args.steps, args.share)
    print(text)
    sys.exit(0 if is_learned else 1)


def overfit(trainer: Trainer, steps: int, share: float) -> tuple[bool, str]:
    """Train on one batch until the loss is at most ``share`` of the first one or has stopped falling.

    Returns:
        Whether the batch is learned, and the verdict in one line.

    Raises:
        UserError: The first loss is not above 0, so that a share of it means nothing.
    """
    from torch import nn

    for part in [*trainer.forms.bare.values(), *vars(trainer).values()]:
        if isinstance(part, nn.Module):
            switch_off_noise(part)
    batches = trainer.batches
    batch = next(batches.open(0, 0, 0))
    if batches.transform:  # once, not anew in each step
        batch, batches.transform = batches.transform(batch), None
    losses: list[float] = []
    lowest, lowest_at, verdict = math.inf, 0, ""
    for loss in train_on(trainer, itertools.repeat(batch, steps)):
        losses.append(loss)
        if len(losses) % 100 == 1:
            print(f"step {len(losses):>5}  loss {loss:.4g}")
        if loss < 0.99 * lowest:
            lowest, lowest_at = loss, len(losses)
        if verdict := judge(losses, share, len(losses) - lowest_at):
            break
    verdict = verdict or "not learned yet, but still falling: try more --steps or a larger optim.lr"
    ends = f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps"
    return verdict == LEARNED, f"{ends}: {verdict}"


def judge(losses: list[float], share: float, waited: int) -> str:
    """Return the verdict on the losses so far, the lowest of which was ``waited`` steps ago; empty if it is open."""
    first, loss = losses[0], losses[-1]
    if not math.isfinite(loss):
        return "not learned: the loss is not finite"
    if first <= 0:
        raise UserError(f"the first loss is {first:.4g}: expected one above 0, so that learning brings it close to 0")
    if loss <= share * first:
        return LEARNED
    return f"not learned: it has stopped falling, above {share * first:.4g}" if waited >= _PATIENCE else ""


def switch_off_noise(model: nn.Module) -> None:
    """Set every rate of dropout and of label smoothing to 0, those that modules keep as plain numbers, too."""
    from torch.nn.modules.dropout import _DropoutNd

    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if ("drop" in name or name == "label_smoothing") and type(value) is float:
                setattr(module, name, 0.0)


if __name__ == "__main__":
    main()
