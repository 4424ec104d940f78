"""A config file and flags → a frozen ``Config``, or one line on stderr that says what is wrong.

The file becomes nested dicts, each flag replaces one key in them, and one walk along the schema checks and builds the
whole. jsonargparse converts each value to the type that ``schema.py`` gives its key, and lays out ``--help``.
"""

import re
import runpy
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import cache
from math import inf
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import SUPPRESS, ArgumentParser, set_parsing_settings

from common.config.errors import UserError, nearest
from common.config.schema import Config, OptimizerConfig, Section

_hints = cache(get_type_hints)
_NAMED = dict[str, OptimizerConfig]
_OPEN = (Section, Section | None, _NAMED, Any)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text (in quotes)", list[int]: "a list"}

# What a value must keep to beyond its type: the last part of its key, in words, as a check. NaN keeps to none of them.
_LIMITS = (
    (r"(batch|tp|shard)_size|nproc|accumulate|timeout", "a whole number from 1", lambda v: v >= 1),
    (r"epoch|iters_per_epoch|keep_\w+|bad_sample_limit|max_samples_\w+", "a whole number from 1", lambda v: v >= 1),
    (r"worker|warmup|early_stop|epoch_\w+|iter_\w+|sample_\w+", "a whole number from 0", lambda v: v >= 0),
    ("seed", "a whole number from 0 to 4294967295", lambda v: 0 <= v < 2**32),
    ("start_epoch", "-1 or 0", lambda v: v in (-1, 0)),
    ("lr", "a number above 0", lambda v: 0 < v < inf),
    ("warmup_factor", "a number above 0, up to 1", lambda v: 0 < v <= 1),
    ("ema_decay", "a number from 0 to below 1", lambda v: 0 <= v < 1),
    (r"weight_decay|clip_gradients\w*|save_time|early_stop_delta", "a number from 0", lambda v: 0 <= v < inf),
    ("profile", "two iterations, such as [50, 60]", lambda v: len(v) == 2 and 0 <= v[0] < v[1]),
    ("compile", "true, false, reduce-overhead or max-autotune", lambda v: True),
    ("gpu_ids", "-1, 0 or several as in 0,1", lambda v: re.fullmatch(r"-1|\d+(, ?\d+)*|\[\d+(, \d+)*\]", str(v))),
    ("name", "text, a folder name such as mlp/run1", lambda v: re.fullmatch(r"[\w{](?!.*\.\.)[^\0-\x1f\\]*", v)),
)


class _Wrong(Exception):
    """A key and what is wrong with its value; only ``_load`` knows where that was set."""


def load_config(argv: list[str] | None = None) -> Config:
    """Read the command line and the config file it names; show ``--help`` or ``--print_config`` and exit if asked.

    ``--config FILE`` (or ``--configs``): one YAML file, or one Python file, which is run and whose public plain values
    are the settings. A second one is refused: two files whose open sections mix would surprise.
    ``--key value`` or ``--key=value``: changes that key and keeps its neighbours, wherever it stands; the last of two
    wins. In an open section the value is a YAML scalar, or YAML if it begins with ``[``, ``{`` or a quote. ``{...}``
    replaces a whole open section; a new ``type`` keeps the keys beside it, to be refused by the class they do not fit.

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


def dump_config(config: Config, change: Callable[[dict], dict] = dict) -> str:
    """Return the config as YAML, in the schema's order; ``load_config`` reads it back as an equal one.

    Args:
        config: The config.
        change: Applied to the config's plain dict first, such as ``redact``.
    """
    return yaml.dump(change(asdict(config)), Dumper=_Dumper, sort_keys=False)


def _load(argv: list[str]) -> Config:
    flags = _flags(argv)
    path = flags.pop("config", None)
    values = {} if path is None else _from_file(path)
    try:
        for key, text in flags.items():
            _put(values, key, text)
        _check_best_metric(config := _typed(Config, values, ""))
        return config
    except _Wrong as wrong:
        raise UserError(_placed(*wrong.args, path, flags)) from None


def _placed(key: str, message: str, path: str | None, flags: dict[str, str]) -> str:
    """Return a message with the flag, or the file and the line, that set the key."""
    if any(f"{flag}.".startswith(f"{key}.") or key.startswith(f"{flag}.") for flag in flags):
        return f"--{key}: " + message.replace("mean '", "mean '--")
    return f"{path}{_line(path, key)}: {key}: {message}"


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
    values[name] = _parse(text, f"--{key}") if _child(hint, name) in _OPEN else text


def _typed(hint: Any, value: Any, key: str) -> Any:
    """Return a value as its type, with all that lies in it; a closed section as its dataclass."""
    if hint is Any or NoneType in get_args(hint):
        if value is None:
            return None
        if value == "None":
            raise _Wrong(key, "found the text None; write null")
    if hint is Any and not isinstance(value, dict):
        return [_typed(Any, item, key) for item in value] if isinstance(value, list | tuple) else value
    return (_section if is_dataclass(hint) or hint in _OPEN else _leaf)(hint, value, key)


def _section(hint: Any, values: Any, key: str) -> Any:
    if not isinstance(values, dict | NoneType):
        raise _Wrong(key, f"expected keys below it, found {values!r:.60}")
    typed = {}
    for name, value in (values or {}).items():
        full_key = f"{key}.{name}".removeprefix(".")
        if (child := _child(hint, name)) is None:
            raise _Wrong(full_key, f"unknown key, {_meant(hint, full_key)}")
        typed[name] = _typed(child, value, full_key)
    return hint(**typed) if is_dataclass(hint) else typed


def _leaf(hint: Any, value: Any, key: str) -> Any:
    optional = NoneType in get_args(hint)
    kind = get_args(hint)[0] if optional else hint
    words = _WORDS.get(kind) or f"one of {', '.join(map(str, get_args(kind)))}"
    limits = (limit for name, *limit in _LIMITS if re.fullmatch(name, key.split(".")[-1]))
    words, fits = next(limits, (words, lambda value: True))
    with suppress(Exception):  # ArgumentError, and whatever PyYAML lets through underneath it
        typed = _converter(hint).parse_object({"value": value}, env=False).value
        if optional if typed is None else fits(typed):
            return typed
    raise _Wrong(key, f"expected {words}{', or null' if optional else ''}, found {value!r:.60}")


@cache
def _converter(hint: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _child(hint: Any, name: str) -> Any:
    """Return the type of a key in a section; None if there can be no such key."""
    if is_dataclass(hint):
        return _hints(hint).get(name)
    return OptimizerConfig if hint == _NAMED else Any if hint in _OPEN else None


def _meant(section: Any, key: str) -> str:
    """Return what an unknown key may have meant: a namesake in another section, or the nearest in its own."""
    name = key.split(".")[-1]
    for other, hint in _hints(Config).items():
        if is_dataclass(hint) and name in _hints(hint):
            return f"did you mean '{other}.{name}'?"
    return nearest(name, _hints(section)).replace("'", f"'{key.removesuffix(name)}", 1)


def _check_best_metric(config: Config) -> None:
    """Refuse what watches checkpoint.best_metric where there is none."""
    schedulers = [optimizer.lr_scheduler or {} for optimizer in [config.optim, *config.optim.named.values()]]
    plateau = any(scheduler.get("type") == "ReduceLROnPlateau" for scheduler in schedulers)
    for key, watches in (("trainer.early_stop", config.trainer.early_stop), ("optim.lr_scheduler", plateau)):
        if watches and config.checkpoint.best_metric is None:
            raise _Wrong(key, "needs checkpoint.best_metric, the validation result to watch")


def _from_file(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        known = [file.name for file in Path(path).parent.glob("*.[py]*")]
        meant = f", {nearest(Path(path).name, known)}" if isinstance(error, FileNotFoundError) else ""
        raise UserError(f"--config: {path or 'no file'}: {getattr(error, 'strerror', error)}{meant}") from None
    values = _parse(_run(path) if path.endswith(".py") else text, path)
    if not isinstance(values, dict | NoneType):
        raise UserError(f"{path}: expected keys and values, found {values!r:.60}")
    return values or {}


def _run(path: str) -> bytes:
    """Run a Python config and return its settings as YAML: its public plain values, and all that has a key's name."""
    full_path = str(Path(path).resolve())
    plain = (dict, list, tuple, str, int, float, NoneType)
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
        node = super().compose_mapping_node(anchor)
        names = [(key.tag, key.value) for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if names[index] in names[:index]:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' appears twice", problem_mark=key.start_mark)
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
