"""Begin a new operator from the sample: python -m custom.ops.new_op my_op.

It writes ``csrc/my_op.cpp``, ``csrc/cuda/my_op_kernel.cu``, ``my_op.py`` and a test, which add two tensors as
``add_matrix`` does, build and pass as they are, and are yours to change; and names them in ``func.py``.
"""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TESTS = FOLDER.parents[1] / "tests" / "tests_custom" / "ops"


def scaffold(name: str) -> list[Path]:
    """Write the files of an operator and return them.

    Raises:
        ValueError: The name is no name in lower case, or there is such an operator.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"{name}: expected a name in lower case, such as my_op")
    new = {source: source.with_name(source.name.replace("add_matrix", name)) for source in _sample()}
    for path in new.values():
        if path.exists():
            raise ValueError(f"{path} exists, and is not overwritten")
    for source, path in new.items():
        path.write_text(_renamed(source.read_text(encoding="utf-8"), name), encoding="utf-8")
    _enter(name)
    return list(new.values())


def _sample() -> list[Path]:
    sources = FOLDER / "csrc"
    cpp, cuda = sources / "add_matrix.cpp", sources / "cuda" / "add_matrix_kernel.cu"
    return [cpp, cuda, FOLDER / "add_matrix.py", TESTS / "test_add_matrix.py"]


def _renamed(text: str, name: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("_"))
    return text.replace("add_matrix", name).replace("AddMatrix", camel)


def _enter(name: str) -> None:
    """Name the operator in ``func.py``, in front of the sample's lines."""
    path = FOLDER / "func.py"
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if "add_matrix" in line or "AddMatrix" in line:
            lines.append(_renamed(line, name))
        lines.append(line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write the files of the operator that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        for path in scaffold(sys.argv[1]):
            print(f"wrote {path}")
    except ValueError as error:
        sys.exit(f"new_op: error: {error}")
    print("build and test it: sh scripts/install_ops.sh && python -m unittest discover tests")


if __name__ == "__main__":
    main()
