"""Compare two configs or two experiments: the keys that differ, and the metrics side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.config.console import command
from common.config.load import load_config
from common.config.secrets import digest, redact
from common.tools.curves import read_curves
from common.tools.project import make_parser


@command()
def main(argv: list[str] | None = None) -> None:
    """Print each key that differs and, for two experiments, the last value of each curve."""
    parser = make_parser("compare", __doc__)
    parser.add_argument("one", type=Path, help="a config file, or an experiment's folder")
    parser.add_argument("other", type=Path, help="the other one")
    args = parser.parse_args(argv)
    print_table([("key", str(args.one), str(args.other)), *differences(*map(keys_of, (args.one, args.other)))])
    if args.one.is_dir() and args.other.is_dir():
        print()
        print_table([("last value", str(args.one), str(args.other)), *side_by_side(args.one, args.other)])


def keys_of(path: Path) -> dict[str, Any]:
    """Return all keys of a config file or of an experiment's config, including defaults."""
    file = path / "cfg_backup.yaml" if path.is_dir() else path
    return flatten(redact(asdict(load_config(["--config", str(file)])), mask=digest))


def flatten(section: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested sections as one dict with dotted keys; an empty section counts as a value."""
    flat = {}
    for key, value in section.items():
        flat |= flatten(value, f"{before}{key}.") if isinstance(value, dict) and value else {f"{before}{key}": value}
    return flat


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return each key that differs with its two values; - stands for a missing key."""
    keys = dict.fromkeys([*one, *other])
    found = [(key, _shown(one, key), _shown(other, key)) for key in keys]
    return [row for row in found if row[1] != row[2]]


def side_by_side(one: Path, other: Path) -> list[tuple[str, str, str]]:
    """Return the last value of each curve in two experiments."""
    lasts = [{name: f"{values[-1]:.5g}" for name, (_, values) in read_curves(path).items()} for path in (one, other)]
    return [(key, lasts[0].get(key, "-"), lasts[1].get(key, "-")) for key in dict.fromkeys([*lasts[0], *lasts[1]])]


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows as aligned columns; the first row is the header."""
    if len(rows) == 1:
        print("no key differs")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _shown(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "-"


if __name__ == "__main__":
    main()
