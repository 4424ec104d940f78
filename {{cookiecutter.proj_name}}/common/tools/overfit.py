"""Check that a model can learn one batch by heart, without dropout; one that cannot has a fault in it."""

from __future__ import annotations

import itertools
import sys

from common.tools.project import make_parser, make_steps, one_line_errors, read_words, tried_trainer


def main(argv: list[str] | None = None) -> None:
    """Print the loss on its way down; exit with 1 if it stays above the share of the first one."""
    parser = make_parser("overfit", __doc__)
    parser.add_argument("--steps", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--share", type=float, default=0.1, help="of the first loss (default: %(default)s)")
    words, config = read_words(parser, argv)
    from torch.nn.modules.dropout import _DropoutNd

    losses: list[float] = []
    with one_line_errors(), tried_trainer(config) as trainer:
        for module in (module for model in trainer.forms.bare.values() for module in model.modules()):
            if isinstance(module, _DropoutNd):
                module.p = 0.0
        batch = next(trainer.batches.open(0, 0, 0))
        for step, loss in enumerate(make_steps(trainer, itertools.repeat(batch, words.steps))):
            losses.append(loss)
            if step % max(1, words.steps // 10) == 0:
                print(f"step {step:>5}  loss {loss:.4g}")
    learnt = losses[-1] <= words.share * losses[0]
    verdict = "learnt by heart" if learnt else f"not learnt: expected at most {words.share * losses[0]:.4g}"
    print(f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps: {verdict}")
    sys.exit(0 if learnt else 1)


if __name__ == "__main__":
    main()
