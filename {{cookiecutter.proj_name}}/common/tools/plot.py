"""Plot the curves of one or several experiments to one PNG."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.config.console import command
from common.config.errors import UserError, nearest
from common.tools.curves import read_curves
from common.tools.project import make_parser


@command()
def main(argv: list[str] | None = None) -> None:
    """Write the picture and print its name."""
    parser = make_parser("plot", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="experiments' folders")
    parser.add_argument("--keys", nargs="+", help="what to plot, such as loss accuracy (default: what val has)")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture (default: %(default)s)")
    args = parser.parse_args(argv)
    plot({name_of(run): read_curves(run) for run in args.runs}, args.keys).savefig(args.out, dpi=150)
    print(args.out)


def plot(runs: dict[str, dict[str, tuple[list[int], list[float]]]], keys: list[str] | None = None) -> Figure:
    """Return a figure with one panel per key: validation as a line with markers, training as a thin line.

    Args:
        runs: The curves of each run, by its name.
        keys: What to plot. None: everything measured in validation, or in training if there is no validation.

    Raises:
        UserError: No run has one of the keys.
    """
    names = dict.fromkeys(name for curves in runs.values() for name in curves)
    known = {name.split("/", 1)[1]: None for name in names if name.startswith(("val/", "train/"))}
    validated = [key for key in known if f"val/{key}" in names]
    keys = keys or validated or list(known)
    for key in keys:
        if key not in known:
            raise UserError(f"--keys: no run has '{key}', {nearest(key, known)}")
    if not keys:
        raise UserError("the runs have no curves yet")
    columns = min(len(keys), 3)
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.2 * columns, 3 * rows + 0.25 * len(runs)), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in grid[len(keys) :]:
        axis.set_visible(False)
    for key, axis in zip(keys, grid, strict=False):
        for number, (run, curves) in enumerate(runs.items()):
            color = f"C{number % 10}"
            if f"train/{key}" in curves:
                axis.plot(*curves[f"train/{key}"], color=color, linewidth=0.7, alpha=0.5, label=f"{run}, training")
            if f"val/{key}" in curves:
                style = {"linewidth": 1.5, "marker": "o", "markersize": 3}
                axis.plot(*curves[f"val/{key}"], color=color, label=f"{run}, validation", **style)
        axis.set(xlabel="iteration", ylabel=key.replace("_", " "))
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles = {label: handle for axis in grid for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def name_of(run: Path) -> str:
    """Return a run's name: that of its folder."""
    return (run.parent if run.name == "metrics.jsonl" else run).resolve().name


if __name__ == "__main__":
    main()
