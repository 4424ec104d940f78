"""Predict: python predict.py --model_pt experiments/<name>/checkpoints/<file>.pt --input FILE [--output FOLDER]."""

import sys

from common.deploy.cli import Parser, open_predictor, plain_ends, positive


def main() -> None:
    """Predict files by a checkpoint or an exported model; exit with 1 if some could not be."""
    parser = Parser("Predict files by a checkpoint or an exported model.")
    parser.add_argument("--input", required=True, help="a file, a folder, a quoted pattern, or - for standard input")
    parser.add_argument("--output", help="folder for predictions.csv, predictions.jsonl and pictures")
    parser.add_argument("--batch_size", type=positive, default=32, metavar="N", help="inputs at once (default: 32)")
    parser.add_argument("--worker", type=int, default=0, metavar="N", help="processes that read files (default: 0)")
    words, rest = parser.parse()
    with plain_ends():
        predictor = open_predictor(words, rest)
        # Imported late, so that --help and a mistake in a flag are answered before torch is loaded.
        from pathlib import Path

        from common.deploy.predict import predict_files

        output = Path(words.output) if words.output else None
        done, failed = predict_files(predictor, words.input, output, words.batch_size, words.worker)
        if failed:
            sys.exit(f"predict.py: {failed} of {done + failed} inputs could not be predicted")


if __name__ == "__main__":
    main()
