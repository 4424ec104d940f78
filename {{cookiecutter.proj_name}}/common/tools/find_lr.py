"""Find a learning rate: train with one that grows with every step, and see where the loss falls fastest."""

from __future__ import annotations

import math
from pathlib import Path

from common.config.console import command
from common.config.errors import UserError
from common.tools.project import groups_of, make_parser, read_args, train_on, tried_trainer


@command()
def main(argv: list[str] | None = None) -> None:
    """Write the curve as a picture, and print the learning rate at its steepest fall.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017).
    """
    parser = make_parser("find_lr", __doc__)
    parser.add_argument("--from", dest="low", type=float, default=1e-6, help="first rate (default: %(default)s)")
    parser.add_argument("--to", dest="high", type=float, default=1.0, help="last rate (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("lr.png"), help="the picture (default: %(default)s)")
    args, config = read_args(parser, argv)
    if not 0 < args.low < args.high or args.steps < 10:
        raise UserError("--from, --to, --steps: expected 0 < from < to, and 10 steps at least")
    with tried_trainer(config) as trainer:
        rates, losses = try_rates(trainer, args.low, args.high, args.steps)
    best = steepest(rates, losses)
    draw(rates, losses, best).savefig(args.out, dpi=150)
    print(f"{args.out}: the loss falls fastest at a learning rate of {best:.2g}")


def try_rates(trainer, low: float, high: float, steps: int) -> tuple[list[float], list[float]]:
    """Return the rates and the smoothed losses, up to where the loss is four times its smallest."""
    from common.data.batches import open_pass

    def batches():
        epoch = 0
        while True:
            yield from open_pass(trainer.train_loader, epoch)
            epoch += 1

    def set_rate(rate: float) -> None:
        for group in groups_of(trainer):
            group["lr"] = rate

    planned = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    losses, average = [], 0.0
    set_rate(low)
    for step, loss in enumerate(train_on(trainer, batches())):
        average = 0.9 * average + 0.1 * loss
        smooth = average / (1 - 0.9 ** (step + 1))
        if not math.isfinite(loss) or smooth > 4 * min(losses, default=math.inf):
            break
        losses.append(smooth)
        if len(losses) == steps:
            break
        set_rate(planned[step + 1])
    return planned[: len(losses)], losses


def steepest(rates: list[float], losses: list[float]) -> float:
    """Return the rate at which the loss falls fastest, as a function of the rate's logarithm.

    The first tenth, in which the smoothed loss has seen too few steps, does not count.

    Raises:
        UserError: There are too few steps to tell.
    """
    import numpy as np

    if len(rates) < 5:
        raise UserError(f"the loss grew at once: {len(rates)} steps tell nothing; lower --from")
    first = len(rates) // 10
    return rates[first + int(np.gradient(np.array(losses), np.log(rates))[first:].argmin())]


def draw(rates: list[float], losses: list[float], best: float):
    """Return the curve as a figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses)
    axis.axvline(best, color="C1", linestyle="--", label=f"steepest at {best:.2g}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss, smoothed")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
