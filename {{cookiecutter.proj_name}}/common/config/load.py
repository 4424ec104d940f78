"""A config file and flags → a frozen ``Config``, or one line on stderr that says what is wrong.

The file becomes nested dicts, each flag replaces one key in them, and one walk along the schema checks and builds the
whole. jsonargparse converts each value to its type in ``schema.py``, and prints ``--help``.
"""

import re
import runpy
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import SUPPRESS, ArgumentParser, set_parsing_settings

from common.config.console import protect_console
from common.config.errors import UserError, closest, nearest
from common.config.schema import Config, Limit, OptimizerConfig, Section

_hints = cache(partial(get_type_hints, include_extras=True))
_NAMED = dict[str, OptimizerConfig]
_OPEN = (Section, Section | None, _NAMED, Any)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text (in quotes)"}


class _Wrong(Exception):
    """A key, what is wrong with it, and the key that was perhaps meant; only ``_load`` knows where it was set."""


def load_config(argv: list[str] | None = None) -> Config:
    """Read the command line and the config file it names; print and exit for ``--help`` and ``--print_config``.

    ``--config FILE`` (or ``--configs``): one YAML file, or one Python file, which is run and whose public plain values
    are the settings. ``--key value`` or ``--key=value``: sets that key alone, in any position; the last of two wins. In
    an open section the value is a YAML scalar, or YAML if it begins with ``[``, ``{`` or a quote. ``{...}`` replaces a
    whole section. After a mistake its one line goes to stderr, and the exit code is 2.
    """
    protect_console()
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        _help_parser().parse_args(["--help"])  # which exits
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


def dump_config(config: Config, change: Callable[[dict], dict] = dict) -> str:
    """Return the config, ``change``d as a plain dict (such as by ``redact``), as YAML that ``load_config`` reads."""
    return yaml.dump(change(asdict(config)), Dumper=_Dumper, sort_keys=False)


def _load(argv: list[str]) -> Config:
    flags = _flags(argv)
    path = flags.pop("config", None)
    values = {} if path is None else _from_file(path)
    try:
        for key, text in flags.items():
            _put(values, key, text)
        config = _typed(Config, values, "")
        _check_best_metric(config)
        return config
    except _Wrong as wrong:
        key, message, *meant = wrong.args
        by_flag = any(f"{flag}.".startswith(f"{key}.") or key.startswith(f"{flag}.") for flag in flags)
        dashes, place = ("--", "") if by_flag else ("", f"{path}{_line(path or '', key)}: ")
        hint = f", did you mean '{dashes}{meant[0]}'?" if meant else ""
        raise UserError(f"{place}{dashes}{key}: {message}{hint}") from None


def _flags(argv: list[str]) -> dict[str, str]:
    """Return the text of each flag, in the order in which they were last given."""
    flags: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        flag, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not flag:
            raise UserError(f"{word}: expected a flag and its value, such as --optim.lr 3e-4")
        if not equals and (text := next(words, "--")).startswith("--"):
            raise UserError(f"--{flag}: the value is missing")
        flag = "config" if flag == "configs" else flag
        previous = flags.pop(flag, None)
        if flag == "config" and previous is not None:
            raise UserError(f"--config: expected one file, found {previous} and {text}")
        flags[flag] = text
    return flags


def _put(values: dict[str, Any], key: str, text: str) -> None:
    """Enter the value of a flag, and the sections around it that are missing or null."""
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
    values[name] = _parse(text, f"--{key}") if _child(hint, name) in _OPEN else text


def _typed(hint: Any, value: Any, key: str) -> Any:
    """Return a value as its type, with all that it holds; a closed section as its dataclass."""
    if hint is Any or NoneType in get_args(hint):
        if value is None:
            return None
        if value == "None":
            raise _Wrong(key, "found the text None; write null")
    if hint is Any and not isinstance(value, dict):
        return [_typed(Any, item, key) for item in value] if isinstance(value, list | tuple) else value
    if not is_dataclass(hint) and hint not in _OPEN:
        return _leaf(hint, value, key)
    if not isinstance(value, dict | NoneType):
        raise _Wrong(key, f"expected keys below it, found {value!r:.60}")
    typed = {}
    for name, item in (value or {}).items():
        full_key = f"{key}.{name}" if key else f"{name}"
        if (child := _child(hint, name)) is None:
            raise _unknown(hint, full_key)
        typed[name] = _typed(child, item, full_key)
    make: Any = hint
    return make(**typed) if is_dataclass(hint) else typed


def _leaf(hint: Any, value: Any, key: str) -> Any:
    optional = NoneType in get_args(hint)
    kind = get_args(hint)[0] if optional else hint
    if get_origin(kind) is Annotated:
        limit = kind.__metadata__[0]
    else:
        limit = Limit(_WORDS.get(kind) or f"one of {', '.join(get_args(kind))}")
    with suppress(Exception):  # ArgumentError, and whatever PyYAML lets through underneath it
        typed = _converter(hint).parse_object({"value": value}, env=False).value
        if (optional and typed is None) or limit.fits(typed):
            return typed
    raise _Wrong(key, f"expected {limit.words}{', or null' if optional else ''}, found {value!r:.60}")


@cache
def _converter(hint: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _child(hint: Any, name: str) -> Any:
    """Return the type of a key in a section; None if there is no such key."""
    if is_dataclass(hint):
        return _hints(hint).get(name)
    return OptimizerConfig if hint == _NAMED else Any if hint in _OPEN else None


def _unknown(section: Any, key: str) -> _Wrong:
    """Return what to say of an unknown key; perhaps a namesake in another section was meant, or the nearest here."""
    path, _, name = key.rpartition(".")
    for other, hint in _hints(Config).items():
        if is_dataclass(hint) and name in _hints(hint):
            return _Wrong(key, "unknown key", f"{other}.{name}")
    if match := closest(name, _hints(section)):
        return _Wrong(key, "unknown key", f"{path}.{match}".removeprefix("."))
    return _Wrong(key, f"unknown key, known: {', '.join(sorted(_hints(section)))}")


def _check_best_metric(config: Config) -> None:
    """Refuse what watches checkpoint.best_metric where there is none."""
    schedulers = [optimizer.lr_scheduler or {} for optimizer in [config.optim, *config.optim.named.values()]]
    plateau = any(scheduler.get("type") == "ReduceLROnPlateau" for scheduler in schedulers)
    for key, watches in (("trainer.early_stop", config.trainer.early_stop), ("optim.lr_scheduler", plateau)):
        if watches and not config.checkpoint.best_metric:
            raise _Wrong(key, "needs checkpoint.best_metric, the validation result to watch")


def _from_file(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        known = [file.name for file in Path(path).parent.glob("*.[py]*")]
        hint = f", {nearest(Path(path).name, known)}" if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"--config: {path or 'no file'}: {getattr(error, 'strerror', error)}{hint}") from None
    values = _parse(_run(path) if path.endswith(".py") else text, path)
    if not isinstance(values, dict | NoneType):
        raise UserError(f"{path}: expected keys and values, found {values!r:.60}")
    return values or {}


def _run(path: str) -> bytes:
    """Run a Python config and return its settings as YAML: its public plain values, and all that has a key's name."""
    full_path, plain = str(Path(path).resolve()), (dict, list, tuple, str, int, float, NoneType)
    try:
        found = runpy.run_path(full_path)
        kept = {n: v for n, v in found.items() if n in _hints(Config) or (isinstance(v, plain) and n[0] != "_")}
        return yaml.dump(kept, Dumper=_Dumper, sort_keys=False, encoding="utf-8")
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == full_path]
        line = getattr(frames[-1] if frames else error, "lineno", None)
        place = f"{path}:{line}" if line else path
        raise UserError(f"{place}: {type(error).__name__}: {getattr(error, 'msg', error)}") from None


def _parse(text: str | bytes, place: str) -> Any:
    """Return the value of a YAML file, or of a flag: a mere scalar, so ``*.png``, ``#fff``, ``a: b`` stay text."""
    try:
        if isinstance(text, bytes) or text.startswith(("[", "{", "'", '"')):
            return yaml.load(text, _Loader)
        loader = _Loader("")
        return loader.construct_object(yaml.ScalarNode(loader.resolve(yaml.ScalarNode, text, (True, False)), text))
    except Exception as error:  # PyYAML lets anything through where a !!tag and its value do not fit
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and isinstance(text, bytes) else ""
        raise UserError(f"{place}{line}: {getattr(error, 'problem', None) or error}") from None


def _line(path: str, key: str) -> str:
    """Return the line of a key in a YAML file, as ``:3``; nothing for a Python file."""
    node, line = None if path.endswith(".py") else yaml.compose(Path(path).read_bytes(), _Loader), ""
    for name in key.split("."):
        for entry, child in node.value if isinstance(node, yaml.MappingNode) else ():
            if entry.value == name:
                node, line = child, f":{entry.start_mark.line + 1}"
    return line


class _Loader(yaml.SafeLoader):
    """``yaml.safe_load``, but 1e-4 is a number, a date stays text, and a key that appears twice is an error."""

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), []
        for key, _ in node.value:
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' appears twice", problem_mark=key.start_mark)
            seen.append((key.tag, key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back as the same value."""


for _class in (_Loader, _Dumper):
    _number = re.compile(r"[-+]?([0-9][0-9_]*\.?|\.[0-9])[0-9_]*[eE][-+]?[0-9]+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def _help_parser() -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(usage="%(prog)s [--config FILE] [--key value ...]")
    parser.add_argument("--config", "--configs", metavar="FILE", help="YAML or Python file that sets the keys below.")
    parser.add_argument("--print_config", action="store_true", help="Print the resulting config as YAML and exit.")
    parser.add_class_arguments(Config)
    for action in parser._actions:
        # jsonargparse adds flags of its own, which do not exist here: --optim CONFIG, --optim.named.help, --gpu_ids+.
        action.option_strings = [flag for flag in action.option_strings if not flag.endswith(("+", ".help"))]
        if action.metavar == "CONFIG" or not action.option_strings:
            action.help = SUPPRESS
    return parser
