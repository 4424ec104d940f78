"""The data set of one's own photographs: a folder of picture files for each class."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from common.config.errors import UserError, nearest
from common.config.registry import DATASET_REGISTRY
from common.data import BaseDataset, split_groups
from common.images.reading import picture_suffixes, random_box, read_image
from common.log.console import add_log

# The names that the folder of a split may have.
SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "eval": ("eval", "test")}


@DATASET_REGISTRY.register()
class ImageFolder(BaseDataset):
    """Pictures of any format that Pillow reads, in folders named after their classes, at any depth below these.

    ``<data_dir>/train/<class>/*`` goes with ``val/<class>/*`` and ``eval/<class>/*`` (or ``test``): without ``val``, a
    share of ``train`` is taken for it, and without ``eval``, ``val`` serves as both. A plain ``<data_dir>/<class>/*``
    is divided by the seed: each class by itself, or where ``group`` is given, all files of a group together.

    A sample is ``{"image": uint8 (3, height, width), "label": int}``. ``classes`` holds the classes' names in the order
    of their numbers. Hidden files are not seen; other files, and folders without pictures, are left out with a warning.

    Args:
        data_dir: The folder.
        split: ``train``, ``val``, ``eval``, or ``all`` for every picture of a plain folder.
        size: Height and width of the samples, or one number for both.
        crop: The smallest and the largest share of a picture's area that a sample shows, drawn at random, such as
            [0.35, 1.0]. None: the largest part in the middle.
        shares: Shares of the three splits where they are to be divided.
        group: A regular expression. Files whose first (...) is equal are a group; it is searched in
            ``<class>/<file>``. None: each file is one.
        seed: Seed of the division.
        classes: The classes to read, in the order of their numbers. None: all, in the order of their names.

    Raises:
        UserError: There is no such folder or split, there are no classes or pictures, or the expression is wrong.
        ValueError: Shares that are negative or above 1 together, or a ``crop`` that is no range of shares.
    """

    random_generators = ("torch",)

    def __init__(
        self,
        data_dir: str,
        split: str = "train",
        size: int | Sequence[int] = 224,
        crop: Sequence[float] | None = None,
        shares: Sequence[float] = (0.7, 0.15, 0.15),
        group: str | None = None,
        seed: int = 0,
        classes: Sequence[str] | None = None,
    ):
        super().__init__(data_dir)
        self.check_split(split, (*SPLITS, "all"))
        if crop is not None and not (len(crop) == 2 and 0 < crop[0] <= crop[1] <= 1):
            raise ValueError(f"crop must be two shares of the area, such as [0.35, 1.0], found {crop}")
        if len(shares) != 3:
            raise ValueError(f"shares must be three, of train, val and eval, found {list(shares)}")
        self.size = size if isinstance(size, int) else (size[0], size[1])
        self.choose_box = None if crop is None else random_box((crop[0], crop[1]))
        self.prepare()
        folder, part, parts = self._find_split(split, shares)
        if classes is None and folder != self.data_dir:  # those of train, so that all splits number them alike
            train = self._folders().get("train", folder)
            classes = list(find_pictures(train)) if train != folder else None
        pictures = find_pictures(folder, classes, tells=part == 0)
        self.classes = list(pictures if classes is None else classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.pictures = [(file, numbers[name]) for name, files in pictures.items() for file in files]
        if not self.pictures:
            raise UserError(f"{folder}: no pictures in folders named after classes, expected <class>/<picture>")
        names = [os.path.relpath(file, folder).replace(os.sep, "/") for file, _ in self.pictures]
        self.pictures = [self.pictures[row] for row in divide(names, parts, group, seed)[part]]

    def prepare(self) -> None:
        """Make or fetch the folder where it is missing: for subclasses, called before anything is looked for."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def path(self, index: int) -> Path:
        """Return the file of a picture."""
        return Path(self.pictures[index][0])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a picture and its class. Raise what ``read_image`` raises."""
        file, label = self.pictures[index]
        return {"image": read_image(file, size=self.size, choose_box=self.choose_box), "label": label}

    def _find_split(self, split: str, shares: Sequence[float]) -> tuple[Path, int, Sequence[float]]:
        """Return the folder that holds a split, and which part of it the split is, of parts of which shares."""
        if not self.data_dir.is_dir():
            beside = [path.name for path in self.data_dir.absolute().parent.glob("*/")]
            raise UserError(f"--dir.data_dir {self.data_dir}: no such folder, {nearest(self.data_dir.name, beside)}")
        folders = self._folders()
        if split == "all":
            return self.data_dir, 0, (1.0,)
        if not folders:
            return self.data_dir, list(SPLITS).index(split), shares
        if split == "eval" and split not in folders:
            split = "val"
            add_log(f"{self.data_dir}: no folder eval or test, so the pictures of val are evaluated")
        if split in folders and (split != "train" or "val" in folders):
            return folders[split], 0, (1.0,)
        if "train" in folders:
            return folders["train"], int(split == "val"), (1 - shares[1], shares[1])
        raise UserError(
            f"{self.data_dir}: no folder {' or '.join(SPLITS[split])}, found {folders[next(iter(folders))]}"
        )

    def _folders(self) -> dict[str, Path]:
        """Return the folders of splits; one that holds no folders is a class of that name."""
        paths = [(split, self.data_dir / name) for split, names in SPLITS.items() for name in names]
        return {split: p for split, p in reversed(paths) if p.is_dir() and any(q.is_dir() for q in p.iterdir())}


def find_pictures(folder: Path, classes: Sequence[str] | None = None, tells: bool = False) -> dict[str, list[str]]:
    """Return the picture files below each class's folder, sorted, without classes that have none.

    ``classes`` are those to look for, None: all. ``tells``: log what is left out. Raise a UserError where a folder
    cannot be listed.
    """
    found: dict[str, list[str]] = {}
    others, unknown, empty, suffixes = [], [], [], picture_suffixes()
    for place in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if not place.is_dir():
            others.append(place.name)
            continue
        name = unicodedata.normalize("NFC", place.name)  # macOS hands on accents as characters of their own
        if classes is not None and name not in classes:
            unknown.append(name)
            continue
        files = sorted(_files_below(place))
        pictures = [file for file in files if os.path.splitext(file)[1].lower() in suffixes and _is_text(file)]
        others += [os.path.relpath(file, folder) for file in set(files).difference(pictures)]
        if pictures:
            found.setdefault(name, []).extend(pictures)
        else:
            empty.append(name)
    for what, names in (
        ("no files of pictures that Pillow reads in folders of classes", others),
        ("folders without pictures", empty),
        ("folders of other classes", unknown),
    ):
        if tells and names:
            shown = ", ".join(ascii(name)[1:-1] if not _is_text(name) else name for name in sorted(names)[:3])
            more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
            add_log(f"{folder}: left out as {what}: {shown}{more}", "WARNING")
    if tells and len(found) == 1:
        add_log(f"{folder}: one class only, {next(iter(found))}: there is nothing to tell apart", "WARNING")
    return found


def _files_below(folder: Path) -> Iterator[str]:
    """Yield all files that are not hidden, at any depth."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in names if not name.startswith("."))


def _is_text(name: str) -> bool:
    """Return whether a file's name can be written to a log or a table, which some old archives' names cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def divide(names: Sequence[str], shares: Sequence[float], group: str | None, seed: int) -> list[list[int]]:
    """Divide files ``<class>/<file>`` into sets, and return the numbers of those in each, ascending.

    Where ``group`` is given, files whose first (...) is equal stay together; without it, each class is divided alone.

    Raises:
        UserError: The expression is wrong.
        ValueError: The shares are.
    """
    if group is not None:
        try:
            found = [re.search(group, name) for name in names]
            groups = [match[1] if match else name for match, name in zip(found, names, strict=True)]
        except (re.error, IndexError) as error:
            raise UserError(f"group: {group!r}: {error}, expected a regular expression with one (...)") from error
        return split_groups(groups, shares, seed)
    sets: list[list[int]] = [[] for _ in shares]
    for _, rows in groupby(range(len(names)), lambda row: names[row].partition("/")[0]):
        own = list(rows)
        for part, chosen in zip(sets, split_groups([names[row] for row in own], shares, seed), strict=True):
            part.extend(own[row] for row in chosen)
    return sets
