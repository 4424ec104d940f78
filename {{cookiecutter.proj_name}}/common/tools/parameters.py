"""Print a model's parameters: name, shape, count, and whether each is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.config.console import command
from common.tools.project import import_package, make_parser, read_args

if TYPE_CHECKING:
    from torch import nn


@command()
def main(argv: list[str] | None = None) -> None:
    """Print the table of the model that a config describes, or of each of several."""
    _, config = read_args(make_parser("parameters", __doc__), argv)
    from common.config.build import build_model

    import_package()
    several = {} if "type" in config.model or not config.model else config.model
    for name, section in (several or {"model": config.model}).items():
        if several:
            print(f"{name}:")
        print(parameter_table(build_model(section, f"model.{name}" if several else "model")))


def parameter_table(model: nn.Module) -> str:
    """Return a table of a model's parameters, one line each with name, shape, count, and whether it is trained."""
    rows = [("parameter", "shape", "count", "trained")]
    total = trained = 0
    for name, parameter in model.named_parameters():
        count, is_trained = parameter.numel(), parameter.requires_grad
        shape = " x ".join(map(str, parameter.shape)) or "1"
        rows.append((name, shape, f"{count:,}", "yes" if is_trained else "no"))
        total += count
        trained += count if is_trained else 0
    rows.append(("total", "", f"{total:,}", f"{trained:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{name:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}  {is_trained:>{widths[3]}}"
        for name, shape, count, is_trained in rows
    )


if __name__ == "__main__":
    main()
