"""Divide the files of a folder at random into disjoint sets, and write a list of names for each."""

from __future__ import annotations

import re
from pathlib import Path

from common.config.console import command
from common.config.errors import UserError
from common.tools.project import make_parser


@command()
def main(argv: list[str] | None = None) -> None:
    """Write ``<name>.txt`` for each set and print how many files it has."""
    parser = make_parser("split", __doc__)
    parser.add_argument("folder", type=Path, help="where the files are, at any depth")
    parser.add_argument("--pattern", default="*", help="which files, such as '*.jpg' (default: all)")
    parser.add_argument("--names", nargs="+", default=["train", "val", "eval"], help="default: train val eval")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.8, 0.1, 0.1], help="default: 0.8 0.1 0.1")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--group", help="a regular expression; files whose first (...) is equal stay together, such as '(.+)_[0-9]+'"
    )
    parser.add_argument("--out", type=Path, help="where to write the lists (default: the folder)")
    args = parser.parse_args(argv)
    from common.data import split_groups

    files = sorted(path.relative_to(args.folder).as_posix() for path in args.folder.rglob(args.pattern))
    files = [name for name in files if (args.folder / name).is_file()]
    if not files:
        raise UserError(f"{args.folder}: no file {args.pattern} there")
    if len(args.names) != len(args.shares):
        raise UserError(f"--shares: expected {len(args.names)}, one for each name, found {len(args.shares)}")
    try:
        sets = split_groups([group_of(name, args.group) for name in files], args.shares, args.seed)
    except ValueError as error:
        raise UserError(f"--shares: {error}") from error
    lists = [(args.out or args.folder) / f"{name}.txt" for name in args.names]
    for path in lists:
        if path.exists():
            raise UserError(f"{path} exists and is not overwritten")
    for path, rows in zip(lists, sets, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{files[row]}\n" for row in rows), encoding="utf-8")
        print(f"{path}: {len(rows):,} files")


def group_of(name: str, pattern: str | None) -> str:
    """Return the group of a file: what the first (...) of the pattern matches in its name, or the name itself."""
    if pattern is None:
        return name
    try:
        match = re.search(pattern, name)
        return match[1] if match else name
    except (re.error, IndexError) as error:
        raise UserError(f"--group: {pattern!r}: {error}; expected a regular expression with one (...)") from error


if __name__ == "__main__":
    main()
