"""Export: python export.py --model_pt experiments/<name>/checkpoints/<file>.pt --format pt2 --output model.pt2."""

from common.deploy.cli import Parser, open_predictor, plain_ends


def main() -> None:
    """Export the model of a checkpoint, for other programs or to publish it."""
    parser = Parser("Export the model of a checkpoint, for other programs or to publish it.")
    formats = ["onnx", "pt2", "safetensors", "hub"]
    parser.add_argument("--format", required=True, choices=formats, help="hub: a folder to publish")
    parser.add_argument("--output", required=True, metavar="PATH", help="the file, or the folder of hub")
    parser.add_argument("--input", help="files to compare the exported model on (default: the evaluation set)")
    parser.add_argument("--dir.data_dir", dest="data_dir", metavar="DIR", help="root of all data sets, if it has moved")
    words, rest = parser.parse()
    with plain_ends():
        # Imported late, so that --help and a mistake in a flag are answered before torch is loaded.
        from pathlib import Path

        from common.deploy.model_file import find_file, need
        from common.deploy.predict import find_inputs
        from common.export.export import PACKAGES, export
        from common.export.hub import export_folder

        for package in PACKAGES[words.format]:
            need(package, f"--format {words.format}")
        predictor, output = open_predictor(words, rest), Path(words.output)
        given = find_inputs(words.input)[1] if words.input else None
        if words.format == "hub":
            difference = export_folder(predictor, find_file(Path(words.model_pt)), output, given, words.data_dir)
        else:
            difference = export(predictor, words.format, output, given, words.data_dir)
        print(f"{output}: written; its outputs differ from the checkpoint's by {difference:.1e} at most")


if __name__ == "__main__":
    main()
