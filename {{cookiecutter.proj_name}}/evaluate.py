"""Evaluate: python evaluate.py --config configs/eval.yaml --model_pt experiments/<name>/checkpoints/<file>.pt."""

from common.config import command, load_config


@command()
def main() -> None:
    """Evaluate the weights of a checkpoint on ``dataset.eval``."""
    config = load_config()
    # Imported late, so that --help and a mistake in a config are answered before torch is loaded.
    from common.run.launch import launch
    from common.state.experiment import open_results
    from custom import build_tester

    with launch(config, open_results) as session:
        tester = build_tester(config, session)
        if session.checkpoint:
            tester.load_weights(session.checkpoint)
        tester.run()


if __name__ == "__main__":
    main()
