"""The engine imports one way: each file only from the rows above its own, and nothing of the project around it.

A unit is a folder of ``common``, or a file of one that stands in a row of its own. Files of one unit may import each
other. A folder that no row names is a room: it imports the core, and no other room.
"""

import ast
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
ROWS = (
    {"config.errors"},
    {"config.schema", "config.secrets"},
    {"config"},  # files and flags, the registry, the rooms
    {"run.distributed"},
    {"run"},  # signals, random numbers, devices, processes
    {"run.strategy", "log"},
    {"optim", "state"},
    {"run.launch", "data"},
    {"config.build"},
    {"engine"},
)
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
FOLDERS = {path.name for path in (ROOT / "common").iterdir() if path.is_dir()}


def unit_of(module: str) -> str:
    """Return the unit that a module below ``common`` belongs to, such as ``run.launch`` or ``log``."""
    name = ".".join(module.split(".")[:2])
    return name if any(name in row for row in ROWS) else module.split(".")[0]


def row_of(unit: str) -> int:
    """Return the row that a unit stands in; rooms stand in the last."""
    return next((i for i, row in enumerate(ROWS) if unit in row), len(ROWS))


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
    """Tell whether one module below ``common`` may import another."""
    one, other = unit_of(importer), unit_of(imported)
    return one == other or row_of(other) < row_of(one)


def faults(root: Path) -> list[str]:
    """Return a line for each import in a project that goes the wrong way."""
    packages = {path.parent.name for path in root.glob("*/__init__.py")} - {"common", "tests"}
    found = []
    for path in sorted(path for top in packages | {"common"} for path in (root / top).rglob("*.py")):
        top, *parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        for name in imports_of(path, root):
            head, _, below_common = name.partition(".")
            scripts = SCRIPTS | {"tests"} | (packages if top == "common" else set())
            inside = top == head == "common" and module and below_common.split(".")[0] in FOLDERS
            if head in scripts or (inside and not is_upward(module, below_common)):
                found.append(f"{path.relative_to(root)} imports {name}")
    return found


class TestImportDirection(unittest.TestCase):
    def test_every_import_goes_up(self):
        self.assertEqual(faults(ROOT), [])

    def test_wrong_ways_are_seen(self):
        cases = {
            "common/log/metric.py": "import mine.trainer",
            "common/config/load.py": "from common.log.metric import Meters",
            "common/config/errors.py": "from . import registry",
            "common/config/registry.py": "from common.config import build",
            "common/optim/a.py": "def f():\n    from ..state import file",
            "common/engine/loop.py": "from common.sharding import strategy",
            "common/engine/__init__.py": "from ..tools.project import make_parser",
            "common/vision/a.py": "from common.measures.f1 import F1",
            "mine/trainer.py": "from train import main",
            "common/log/curves.py": "import tests.helpers",
        }
        allowed = {
            "common/__init__.py": "from common.engine import Trainer",
            "common/log/console.py": "from ..run.distributed import get_rank\nimport numpy",
            "common/engine/other.py": "from . import loop\nfrom common.log.metric import Meters",
            "common/config/build.py": "from common.data.loader import make_loader",
            "common/vision/b.py": "from common.engine import Trainer\nfrom common.vision import a",
            "mine/losses.py": "from common.engine import loop\nfrom mine.trainer import T",
            "train.py": "import common.run.launch, mine.trainer",
            "mine/__init__.py": "",
        }
        rooms = {"sharding", "tools", "vision", "measures"}
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(globals(), {"FOLDERS": FOLDERS | rooms}):
            for name, text in {**cases, **allowed}.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            self.assertEqual([line.split(" imports ")[0] for line in faults(Path(folder))], sorted(cases))


if __name__ == "__main__":
    unittest.main()
