"""Train: python train.py --config configs/default.yaml [--section.key value ...]."""

from common.config import command, load_config


@command()
def main() -> None:
    """Train what the command line's config describes."""
    config = load_config()
    # Imported late, so that --help and a mistake in a config are answered before torch is loaded.
    from common.run.launch import launch
    from custom import build_trainer

    with launch(config) as session:
        build_trainer(config, session).run()


if __name__ == "__main__":
    main()
