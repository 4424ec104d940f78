"""Print a model's parameters: name, shape, count, and whether each is trained."""

from __future__ import annotations

from common.tools.project import import_package, make_parser, one_line_errors, read_words


def main(argv: list[str] | None = None) -> None:
    """Print the table of the model that a config describes, or of each of several."""
    _, config = read_words(make_parser("parameters", __doc__), argv)
    from common.config.build import build_model
    from common.state.model import parameter_table

    with one_line_errors():
        import_package()
        several = {} if "type" in config.model or not config.model else config.model
        for name, section in (several or {"model": config.model}).items():
            if several:
                print(f"{name}:")
            print(parameter_table(build_model(section, f"model.{name}" if several else "model")))


if __name__ == "__main__":
    main()
