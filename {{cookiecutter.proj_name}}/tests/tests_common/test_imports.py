"""The engine imports one way: each file only from the rows above its own, and nothing of the project around it.

Each unit, ``common/<unit>.py`` or ``common/<unit>/``, stands in one row. A row imports only the rows above it and,
inside the row, what ``SAME_ROW`` names. A new unit belongs to row 2 until it is named here.
"""

import ast
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    0: {"errors", "schema", "secrets", "__init__"},
    1: {"config", "inputs", "registry", "distributed"},
    3: {"build", "datasets", "models", "losses", "metrics", "transforms"},
    4: {"engine"},
    5: {"tools"},
}
MAY_IMPORT = {0: set(), 1: {0}, 2: {0, 1}, 3: {0, 1, 2}, 4: {0, 1, 2}, 5: {0, 1, 2, 3, 4}}
SAME_ROW = {
    "checkpoint": {"checkpoint_file", "host_copy", "logger", "shards"},
    "checkpoint_file": {"shards"},
    "elastic": {"signals"},
    "ema": {"parallel", "sharding"},
    "continuity": {"logger"},
    "experiment": {"checkpoint", "logger"},
    "launch": {"elastic", "experiment", "logger", "parallel", "seed", "signals"},
    "monitor": {"logger", "pictures"},
    "profiling": {"logger"},
    "optim": {"sharding"},
    "sharding": {"shards"},
    "shards": {"host_copy", "shard_reader"},
    "updater": {"ema", "optim", "sharding"},
    "weights": {"checkpoint_file", "sharding"},
    "datasets": {"transforms"},
    "build": {"datasets", "models", "losses", "metrics", "transforms"},
}


def row_of(unit: str) -> int:
    """Return the row that a unit of ``common`` stands in."""
    return next((row for row, units in ROWS.items() if unit in units), 2)


def imports_of(path: Path, root: Path) -> Iterator[str]:
    """Yield every name that a file imports, absolute and dotted, wherever in the file the import stands."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def is_upward(importer: str, imported: str) -> bool:
    """Tell whether one unit of ``common`` may import another."""
    return (
        importer == imported
        or row_of(imported) in MAY_IMPORT[row_of(importer)]
        or imported in SAME_ROW.get(importer, set())
    )


def faults(root: Path) -> list[str]:
    """Return a line for each import in a project that goes the wrong way."""
    packages = {path.parent.name for path in root.glob("*/__init__.py")} - {"common", "tests"}
    found = []
    for path in sorted(path for top in packages | {"common"} for path in (root / top).rglob("*.py")):
        top, unit = path.relative_to(root).with_suffix("").parts[:2]
        for name in imports_of(path, root):
            head, second = (name.split(".") + [""])[:2]
            below = {"train", "evaluate", "tests"} | (packages if top == "common" else set())
            if head in below or (top == head == "common" and not is_upward(unit, second)):
                found.append(f"{path.relative_to(root)} imports {name}")
    return found


class TestImportDirection(unittest.TestCase):
    def test_every_import_goes_up(self):
        self.assertEqual(faults(ROOT), [])

    def test_wrong_ways_are_seen(self):
        cases = {
            "common/meters.py": "import mine.trainer",
            "common/config.py": "from common.meters import Meters",
            "common/errors.py": "from . import registry",
            "common/losses/a.py": "def f():\n    from ..metrics import b",
            "common/engine/loop.py": "from common import build",
            "common/engine/__init__.py": "from ..datasets.loader import Loader",
            "mine/trainer.py": "from train import main",
            "common/monitor.py": "import tests.helpers",
        }
        allowed = {
            "common/logger.py": "from .distributed import get_rank\nimport numpy",
            "common/engine/other.py": "from . import loop\nfrom common.meters import Meters",
            "mine/losses.py": "from common.engine import loop\nfrom mine.trainer import T",
            "train.py": "import common.launch, mine.trainer",
            "mine/__init__.py": "",
        }
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**cases, **allowed}.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            self.assertEqual([line.split(" imports ")[0] for line in faults(Path(folder))], sorted(cases))


if __name__ == "__main__":
    unittest.main()
