"""Draw a batch as the model gets it, after all transforms."""

from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

from common.config.errors import UserError
from common.config.load import load_config
from common.config.schema import Config


def main(argv: list[str] | None = None) -> None:
    """Write the picture and print its name."""
    parser = ArgumentParser("python -m common.vision.show_batch", description=__doc__, allow_abbrev=False)
    parser.add_argument("--split", choices=("train", "val", "eval"), default="train", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=16, help="samples at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("batch.png"), help="the picture (default: %(default)s)")
    parser.epilog = "All other flags are those of train.py: --config FILE [--key value ...]"
    words, flags = parser.parse_known_args(argv)
    config = load_config(flags)
    for path in Path().glob("*/trainer.py"):  # the package of this project, which registers its data sets
        import_module(f"{path.parent.name}.trainer")
    try:
        draw_batch(config, words.split, words.count, words.out)
    except UserError as error:
        parser.exit(error.exit_code, f"show_batch: error: {error}\n")
    print(words.out)


def draw_batch(config: Config, split: str, count: int, out: Path) -> None:
    """Draw the first samples of the first batch.

    Raises:
        UserError: There is no such split, or its batches have no ``image``.
    """
    import torch

    from common.config.build import build_loader
    from common.data.batches import find_transform, open_pass
    from common.data.lookup import class_numbers
    from common.vision.pictures import ShownSample, as_pictures, color_classes, in_rows, sample_figure

    torch.manual_seed(config.trainer.seed)
    loader = build_loader(config, split)
    if loader is None:
        raise UserError(f"dataset.{split}: expected a section with a 'type', found nothing")
    batch, transform = next(open_pass(loader, 0)), find_transform(loader)
    batch = transform(batch) if transform else batch
    if "image" not in batch:
        raise UserError(f"dataset.{split}: a batch has no image to draw, found {', '.join(batch)}")
    pictures = {"image": as_pictures(batch["image"][:count])}
    if "mask" in batch:
        masks = class_numbers(batch["mask"][:count], batch["image"])
        pictures["mask"] = color_classes(masks, max(2, int(masks.max()) + 1))
    titles = [str(int(label)) for label in batch["label"]] if "label" in batch else [""] * count
    shown = [dict(zip(pictures, images, strict=True)) for images in zip(*pictures.values(), strict=True)]
    samples = [ShownSample(*sample) for sample in zip(shown, titles, strict=False)]
    sample_figure(in_rows(samples, across=4 if "mask" in batch else 8)).savefig(out, dpi=150)


if __name__ == "__main__":
    main()
