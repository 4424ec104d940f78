"""Config files: YAML, or Python, each perhaps on the base of another one; read, merged and written."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import yaml

from common.config.errors import UserError, nearest
from common.config.registry import open_room
from common.config.secrets import shown

_MOST_VALUES = 1_000_000  # in a file


class ConfigFile(NamedTuple):
    """A config file as it was read: its path, its values, and its YAML nodes, which know their lines."""

    path: str
    values: dict[str, Any]
    node: yaml.Node | None

    def find(self, key: Sequence[str]) -> tuple[int, str]:
        """Return how many parts of a key stand in the file, and the place of the last of these: ``a.yaml:3``."""
        node, place = self.node, self.path
        for depth, name in enumerate(key):
            entries = node.value if isinstance(node, yaml.MappingNode) else ()
            found = [entry for entry in entries if entry[0].value == name]
            if not found:
                return depth, place
            (at, node) = found[-1]  # behind those of a merge key
            place = self.path if self.path.endswith(".py") else f"{self.path}:{at.start_mark.line + 1}"
        return len(key), place


def read_files(path: str, keys: Collection[str]) -> list[ConfigFile]:
    """Return a config file, the one that its key ``base`` names relative to it, the base of that, and so on.

    A Python file gives its plain variables, and those with the names of ``keys``.
    """
    files: list[ConfigFile] = []
    place = "--config"
    while True:
        file = _read(path, place, keys)
        if any(os.path.samefile(path, other.path) for other in files):
            raise UserError(f"{place}: a circle of files: {' -> '.join(one.path for one in [*files, file])}")
        files.append(file)
        base = file.values.pop("base", None)
        place = f"{file.find(['base'])[1]}: base"
        if base is None:
            return files
        if not isinstance(base, str):
            raise UserError(f"{place}: expected the path of a config file, found {shown(base)}")
        path = os.path.join(os.path.dirname(path), base)


def _read(path: str, place: str, keys: Collection[str]) -> ConfigFile:
    try:
        text = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        hint = ""
        if isinstance(error, FileNotFoundError):
            hint = f", {nearest(Path(path).name, [file.name for file in Path(path).parent.glob('*.[py]*')])}"
        raise UserError(f"{place}: {path or 'no file'}: {getattr(error, 'strerror', error)}{hint}") from None
    if path.endswith(".py"):
        text = open_room("tools.python_config", place).read_settings(path, keys, _Dumper)
    values, node = parse(text, path)
    if not isinstance(values, dict | NoneType):
        raise UserError(f"{path}: expected keys and values, found {shown(values)}")
    return ConfigFile(path, values or {}, node)


def parse(text: str | bytes, place: str) -> tuple[Any, yaml.Node | None]:
    """Return the value of a YAML file, or of a flag: a mere scalar, so ``*.png``, ``#fff``, ``a: b`` stay text."""
    is_yaml = isinstance(text, bytes) or text.startswith(("[", "{", "'", '"'))
    try:
        loader = _Loader(text if is_yaml else "")
        if is_yaml:
            node = loader.get_single_node()
        else:
            node = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text)
        return loader.construct_document(node) if node else None, node
    except Exception as error:  # PyYAML lets anything through where a !!tag and its value do not fit
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and isinstance(text, bytes) else ""
        raise UserError(f"{place}{line}: {getattr(error, 'problem', None) or error}") from None


def write(values: dict[str, Any]) -> str:
    """Return nested values as YAML that ``parse`` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """``yaml.safe_load``, but 1e-4 is a number, a date stays text, and a key that appears twice is an error.

    So are aliases of aliases that make a small file a huge config.
    """

    _count = 0  # of the values composed, with those that aliases repeat

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' appears twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def compose_node(self, parent, index):
        before = self._count
        node: Any = super().compose_node(parent, index)
        size = vars(node).setdefault("size", self._count + 1 - before)  # an alias is a node that has its size
        self._count = before + size
        if self._count > _MOST_VALUES:
            problem = f"its aliases make it more than {_MOST_VALUES:,} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back as the same value."""


for _class in (_Loader, _Dumper):
    _number = re.compile(r"[-+]?([0-9][0-9_]*\.?|\.[0-9])[0-9_]*[eE][-+]?[0-9]+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)
