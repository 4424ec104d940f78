"""A config file and flags → a frozen ``Config``, or one line on stderr that says what is wrong.

``python train.py --config configs/default.yaml --optim.lr 3e-4 --dataset.train.batch_size 64``

The file becomes nested dicts, a flag replaces one key in them, and one walk along the schema checks and builds the
whole. jsonargparse converts each value to the type that ``schema.py`` gives its key, and lays out ``--help``.
"""

import re
import runpy
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import cache
from math import inf
from pathlib import Path, PurePath
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from common.errors import UserError, nearest
from common.schema import Config

_hints = cache(get_type_hints)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}

# What a value must keep to beyond its type, by the last part of its key. NaN keeps to none of them.
_LIMITS = {
    key: limit
    for keys, *limit in (
        ("batch_size epoch iters_per_epoch accumulate timeout keep_last", "a whole number from 1", lambda v: v >= 1),
        ("max_samples_eval max_samples_val", "a whole number from 1", lambda v: v >= 1),
        ("worker warmup early_stop epoch_loss iter_loss epoch_val iter_val", "a whole number from 0", lambda v: v >= 0),
        ("epoch_eval epoch_save_progress", "a whole number from 0", lambda v: v >= 0),
        ("epoch_save_checkpoint iter_save_checkpoint", "a whole number from 0", lambda v: v >= 0),
        ("weight_decay clip_gradients clip_gradients_warmup", "a number from 0", lambda v: 0 <= v < inf),
        ("save_time early_stop_delta", "a number from 0", lambda v: 0 <= v < inf),
        ("seed", "a whole number from 0 to 4294967295", lambda v: 0 <= v < 2**32),
        ("lr", "a number above 0", lambda v: 0 < v < inf),
        ("warmup_factor", "a number above 0, up to 1", lambda v: 0 < v <= 1),
        ("ema_decay", "a number from 0 to below 1", lambda v: 0 <= v < 1),
        ("start_epoch", "-1 or 0", lambda v: v in (-1, 0)),
        ("gpu_ids", "-1, 0 or several such as 0,1", lambda v: _is_gpu_ids(str(v))),
        ("name", "a relative folder name without '..'", lambda v: _is_folder_name(v)),
    )
    for key in keys.split()
}


def load_config(argv: list[str] | None = None) -> Config:
    """Read the command line and the config file it names; show ``--help`` or ``--print_config`` and exit if asked.

    ``--config FILE`` (or ``--configs``) names one YAML file, or one Python file, which is run and whose public plain
    values are the settings; without it all keys have their defaults. ``--key value`` or ``--key=value`` changes one key
    and keeps its neighbours, wherever it stands on the line; the last of two wins. In an open section the value is read
    as a YAML scalar, or as YAML if it begins with ``[``, ``{`` or a quote; ``{...}`` replaces a whole open section. A
    changed ``type`` keeps the keys beside it: whoever builds that class reports those that do not fit. A second
    ``--config`` is refused: two files whose open sections mix would surprise.

    Args:
        argv: The words after the program's name; ``sys.argv[1:]`` by default.

    Raises:
        SystemExit: With code 2 after a mistake, told in one line on stderr; with 0 after --help and --print_config.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        _help_parser().print_help()
        raise SystemExit(0)
    try:
        config = _load([word for word in argv if word != "--print_config"])
    except (UserError, RecursionError) as error:
        # Split and joined, the message stays on one line whatever a path or a value holds.
        print(f"{Path(sys.argv[0]).name}: error:", *str(error).split(), file=sys.stderr)
        raise SystemExit(2) from None
    if "--print_config" in argv:
        print(dump_config(config), end="")
        raise SystemExit(0)
    return config


def dump_config(config: Config) -> str:
    """Return the config as YAML, in the schema's order; ``load_config`` reads it back as an equal one."""
    return yaml.dump(asdict(config), Dumper=_Dumper, sort_keys=False)


def _load(argv: list[str]) -> Config:
    flags = _flags(argv)
    path = flags.pop("config", None)
    values = {} if path is None else _from_file(path)
    try:
        for key, text in flags.items():
            _put(values, key, text)
        config = _typed(Config, values, "")
    except _Wrong as wrong:
        raise UserError(_located(*wrong.args, path, flags)) from None
    _check_best_metric(config)
    return config


def _flags(argv: list[str]) -> dict[str, str]:
    """Return the text of each flag, in the order in which they were last given."""
    flags: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        flag, equals, text = word.removeprefix("--").partition("=")
        flag = "config" if flag == "configs" else flag
        if not word.startswith("--") or not flag:
            raise UserError(f"{word}: expected a flag and its value, such as --optim.lr 3e-4")
        if not equals and (text := next(words, "--")).startswith("--"):
            raise UserError(f"--{flag}: the value is missing")
        previous = flags.pop(flag, None)
        if flag == "config" and previous is not None:
            raise UserError(f"--config: expected one file, found {previous} and {text}")
        flags[flag] = text
    return flags


class _Loader(yaml.SafeLoader):
    """``yaml.safe_load``, but 1e-4 is a number, a date stays text, and a key that appears twice is an error."""

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in names[:index]:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' appears twice", problem_mark=key.start_mark)
        return node


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back as the same value."""


for _class in (_Loader, _Dumper):
    _number = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def _from_file(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        known = [file.name for file in Path(path).parent.glob("*.[py]*")]
        hint = f", {nearest(Path(path).name, known)}" if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"--config: {path or 'no file'}: {getattr(error, 'strerror', error)}{hint}") from None
    values = _parse(_run(path) if path.endswith(".py") else text, path)
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {values!r:.60}")
    return values or {}


def _run(path: str) -> str:
    """Run a Python config and return its settings as YAML: its public plain values, and all that has a key's name."""
    full_path = str(Path(path).resolve())
    plain = (dict, list, tuple, str, int, float, NoneType)
    try:
        found = runpy.run_path(full_path)
        public = [name for name in found if name in _hints(Config) or (isinstance(found[name], plain) and name[0] != "_")]
        return yaml.dump({name: found[name] for name in public}, Dumper=_Dumper, sort_keys=False)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == full_path]
        line = f":{lines[-1]}" if lines else f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{path}{line}: {type(error).__name__}: {getattr(error, 'msg', error)}") from None


def _parse(text: str | bytes, place: str, scalar: bool = False) -> Any:
    """Return the value of a YAML text. As a ``scalar``, ``*.png``, ``#fff`` and ``a: b`` stay text."""
    try:
        if not scalar:
            return yaml.load(text, _Loader)
        loader = _Loader("")
        return loader.construct_object(yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text))
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and not place.startswith("--") else ""
        raise UserError(f"{place}{line}: {getattr(error, 'problem', None) or error}") from None


def _put(values: dict[str, Any], key: str, text: str) -> None:
    """Enter a flag's value; a section on its way that is null so far becomes one with this key alone."""
    hint: Any = Config
    *path, name = key.split(".")
    for section in path:
        hint = _child(hint, section)
        inner = {} if values.get(section) is None else values[section]
        if not isinstance(inner, dict):
            raise _Wrong(key, f"{section} is {inner!r:.60}, not a section")
        # A copy, since a YAML alias may have put one dict in two places.
        values[section] = dict(inner)
        values = values[section]
    if _inside(_child(hint, name)) is not None:
        text = _parse(text, f"--{key}", scalar=not text.startswith(("[", "{", "'", '"')))
    values[name] = text


class _Wrong(Exception):
    """A key and what is wrong with it; where it was set is found out when it is caught."""


def _located(key: str, message: str, path: str | None, flags: dict[str, str]) -> str:
    """Return a message with the place of its key in front: ``--key``, or ``file:line: key``."""
    if any(f"{flag}.".startswith(f"{key}.") or f"{key}.".startswith(f"{flag}.") for flag in flags):
        return f"--{key}: {message.replace('did you mean ', 'did you mean --')}"
    return f"{path}{_line(path, key)}: {key}: {message}"


def _line(path: str, key: str) -> str:
    """Return the line of a key in a YAML file, as ``:3``; nothing for a Python file."""
    node, line = None if path.endswith(".py") else yaml.compose(Path(path).read_bytes(), _Loader), ""
    for name in key.split("."):
        for entry, child in node.value if isinstance(node, yaml.MappingNode) else ():
            if entry.value == name:
                node, line = child, f":{entry.start_mark.line + 1}"
    return line
