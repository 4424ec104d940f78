"""Draw a batch as the model gets it, after all transforms."""

from __future__ import annotations

from pathlib import Path

from common.tools.project import import_package, make_parser, one_line_errors, read_words


def main(argv: list[str] | None = None) -> None:
    """Write the picture and print its name."""
    parser = make_parser("show_batch", __doc__)
    parser.add_argument("--split", choices=("train", "val", "eval"), default="train", help="default: %(default)s")
    parser.add_argument("--count", type=int, default=16, help="samples at most (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("batch.png"), help="the picture (default: %(default)s)")
    words, config = read_words(parser, argv)
    import torch

    from common.config.build import build_loader
    from common.config.errors import UserError
    from common.data.batches import find_transform, open_pass
    from common.vision.pictures import ShownSample, as_pictures, colour_classes, sample_figure

    with one_line_errors():
        import_package()
        torch.manual_seed(config.trainer.seed)
        loader = build_loader(config, words.split)
        if loader is None:
            raise UserError(f"dataset.{words.split}: expected a section with a 'type', found nothing")
        batch, transform = next(open_pass(loader, 0)), find_transform(loader)
        batch = transform(batch) if transform else batch
        if "image" not in batch:
            raise UserError(f"dataset.{words.split}: a batch has no image to draw, found {', '.join(batch)}")
        pictures = [{"image": image} for image in as_pictures(batch["image"][: words.count])]
        if "mask" in batch:
            masks = batch["mask"][: words.count].long()
            masks = masks[:, 0] if masks.ndim == 4 else masks
            for shown, mask in zip(pictures, colour_classes(masks, max(2, int(masks.max()) + 1)), strict=True):
                shown["mask"] = mask
        labels = [str(int(label)) for label in batch["label"]] if "label" in batch else [""] * len(pictures)
        samples = [ShownSample(shown, label) for shown, label in zip(pictures, labels, strict=False)]
        across = 4 if "mask" in batch else 8
        rows = [("", samples[i : i + across]) for i in range(0, len(samples), across)]
        sample_figure(rows).savefig(words.out, dpi=150)
    print(words.out)


if __name__ == "__main__":
    main()
