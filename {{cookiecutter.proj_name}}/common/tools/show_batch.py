"""Draw a batch as the model gets it, after all transforms."""

from pathlib import Path
from typing import Any

from common.config.console import command
from common.config.errors import UserError
from common.config.registry import open_room
from common.config.schema import Config
from common.state.experiment import classes_of
from common.tools.project import import_package, make_parser, read_args


@command()
def main(argv: list[str] | None = None) -> None:
    """Write the picture and print its name."""
    parser = make_parser("show_batch", __doc__)
    parser.add_argument("--split", choices=("train", "val", "eval"), default="train", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=16, help="samples at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("batch.png"), help="the picture (default: %(default)s)")
    args, config = read_args(parser, argv)
    import_package()
    draw_batch(config, args.split, args.count, args.out)
    print(args.out)


def draw_batch(config: Config, split: str, count: int, out: Path) -> None:
    """Draw the first samples of the first batch.

    Raises:
        UserError: There is no such split, or its batches have no ``image``, or one that cannot be drawn.
    """
    import torch

    from common.config.build import build_loader
    from common.data.batches import open_pass
    from common.log.metric import class_numbers

    room = open_room("images.pictures", "show_batch")
    torch.manual_seed(config.trainer.seed)
    loader = build_loader(config, split)
    if loader is None:
        raise UserError(f"dataset.{split}: expected a section with a 'type', found nothing")
    batch, transform = next(open_pass(loader, 0)), getattr(loader, "transform_batch", None)
    batch = transform(batch) if transform else batch
    if "image" not in batch:
        raise UserError(f"dataset.{split}: a batch has no image to draw, found {', '.join(batch)}")
    try:
        pictures = {"image": room.as_pictures(batch["image"][:count])}
    except ValueError as error:
        raise UserError(f"dataset.{split}: {error}") from None
    if "mask" in batch:
        masks = class_numbers(batch["mask"][:count], batch["image"])
        pictures["mask"] = room.color_classes(masks, max(2, int(masks.max()) + 1))
    samples = room.as_samples(pictures)
    labels: Any = batch.get("label")
    if isinstance(labels, torch.Tensor) and labels.ndim == 1:
        names = classes_of(loader)
        titles = [names[label] if names else f"{label:g}" for label in labels[:count].tolist()]
        samples = [sample._replace(title=title) for sample, title in zip(samples, titles, strict=True)]
    room.write_picture(room.draw_page(samples), out)


if __name__ == "__main__":
    main()
