"""A config file and flags → a frozen ``Config``, or a UserError that says what is wrong.

Each flag replaces one key of the file's nested dicts, and one walk along the schema checks and builds the whole.
jsonargparse converts each value to its type in ``schema.py``, and prints ``--help``.
"""

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import SUPPRESS, ArgumentParser, set_parsing_settings

from common.config.errors import UserError, closest, nearest
from common.config.registry import open_room
from common.config.schema import Config, Limit, OptimizerConfig, Section
from common.config.secrets import HIDDEN, has_secrets, redact

_hints = cache(partial(get_type_hints, include_extras=True))
_NAMED = dict[str, OptimizerConfig]
_OPEN = (Section, Section | None, _NAMED, Any)
_MOST_VALUES = 1_000_000  # in a file
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text (in quotes)"}
_WORDS |= {list[str]: "a list of names, such as [logits, label]"}


class WrongKey(UserError):
    """A key, what is wrong with it, and the key that was perhaps meant; ``_load`` adds where it was set."""

    def __str__(self) -> str:
        key, message, *meant = self.args
        return f"{key}: {message}" + "".join(f", did you mean '{other}'?" for other in meant)


def load_config(argv: list[str] | None = None) -> Config:
    """Read flags, or the command line's, and the config file they name.

    ``--config FILE`` (or ``--configs``): one YAML file, or a Python file whose variables are the sections (room tools).
    ``--key value`` or ``--key=value``: sets that key alone, in any position; the last of two wins. In an open section
    the value is a YAML scalar, or YAML if it begins with ``[``, ``{`` or a quote. ``{...}`` replaces a whole section.
    ``--help`` and ``--print_config`` print and exit. Raise a UserError for a mistake.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        _help_parser().parse_args(["--help"])  # which exits
    try:
        config = _load([word for word in argv if word != "--print_config"])
    except RecursionError as error:
        raise UserError(f"{error}") from None
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
    except WrongKey as wrong:
        key, message, *meant = wrong.args
        if path is None or any(f"{flag}.".startswith(f"{key}.") or key.startswith(f"{flag}.") for flag in flags):
            raise WrongKey(f"--{key}", message, *(f"--{other}" for other in meant)) from None
        raise WrongKey(f"{path}{_line(path, key)}: {key}", message, *meant) from None


def _flags(argv: list[str]) -> dict[str, str]:
    """Return the text of each flag, in the order in which they were last given."""
    flags: dict[str, str] = {}
    words, flag = iter(argv), ""
    for word in words:
        if not word.startswith("--") or word == "--" or word[2] == "=":
            raise UserError(f"{redact(word, flag)}: expected a flag and its value, such as --optim.lr 3e-4")
        flag, equals, text = word.removeprefix("--").partition("=")
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
        hint, inner = _child(hint, section), values.get(section)
        if not isinstance(inner, dict | NoneType):
            raise WrongKey(key, f"{section} is {_shown(inner, key)}, not a section")
        values[section] = dict(inner or {})  # a copy, since a YAML alias may have put one dict in two places
        values = values[section]
    values[name] = _parse(text, f"--{key}") if _child(hint, name) in _OPEN else text


def _typed(hint: Any, value: Any, key: str) -> Any:
    """Return a value as its type, with all that it holds; a closed section as its dataclass."""
    nullable = hint is Any or NoneType in get_args(hint)
    if nullable and value == "None":
        raise WrongKey(key, "found the text None; write null")
    if (nullable and value is None) or (hint is Any and not isinstance(value, dict)):
        return [_typed(Any, item, key) for item in value] if isinstance(value, list) else value
    if not is_dataclass(hint) and hint not in _OPEN:
        return check_value(hint, value, key)
    if not isinstance(value, dict | NoneType):
        raise WrongKey(key, f"expected keys below it, found {_shown(value, key)}")
    typed = {}
    for name, item in (value or {}).items():
        full_key = f"{key}.{name}" if key else f"{name}"
        if (child := _child(hint, name)) is None:
            raise _unknown(hint, full_key)
        typed[name] = _typed(child, item, full_key)
    make: Any = hint
    return make(**typed) if is_dataclass(hint) else typed


def check_value(hint: Any, value: Any, key: str) -> Any:
    """Return a value as its type; raise a UserError that begins with its key if it does not fit."""
    optional = NoneType in get_args(hint)
    kind = get_args(hint)[0] if optional else hint
    words = _WORDS.get(kind) or f"one of {', '.join(map(str, get_args(kind)))}"
    limit = kind.__metadata__[0] if get_origin(kind) is Annotated else Limit(words)
    with suppress(Exception):  # ArgumentError, and whatever PyYAML lets through underneath it
        typed = _converter(hint).parse_object({"value": value}, env=False).value
        if (optional and typed is None) or limit.fits(typed):
            return typed
    raise WrongKey(key, f"expected {limit.words}{', or null' if optional else ''}, found {_shown(value, key)}")


def _shown(value: Any, key: str) -> str:
    """Return what an error shows of a value: its beginning, without secrets."""
    return HIDDEN if isinstance(value, str) and has_secrets(value) else f"{redact(value, key)!r:.60}"


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


def _unknown(section: Any, key: str) -> WrongKey:
    """Return what to say of an unknown key; perhaps a namesake in another section was meant, or the nearest here."""
    path, _, name = key.rpartition(".")
    for other, hint in _hints(Config).items():
        if is_dataclass(hint) and name in _hints(hint):
            return WrongKey(key, "unknown key", f"{other}.{name}")
    if match := closest(name, _hints(section)):
        return WrongKey(key, "unknown key", f"{path}.{match}".removeprefix("."))
    return WrongKey(key, f"unknown key, known: {', '.join(sorted(_hints(section)))}")


def _check_best_metric(config: Config) -> None:
    """Refuse what watches checkpoint.best_metric where there is none."""
    watching = {"trainer.early_stop": config.trainer.early_stop}
    optimizers = {"optim": config.optim, **{f"optim.named.{name}": one for name, one in config.optim.named.items()}}
    for where, one in optimizers.items():
        watching[f"{where}.lr_scheduler"] = (one.lr_scheduler or {}).get("type") == "ReduceLROnPlateau"
    for key, watches in watching.items():
        if watches and not config.checkpoint.best_metric:
            raise WrongKey(key, "needs checkpoint.best_metric, the validation result to watch")


def _from_file(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        hint = ""
        if isinstance(error, FileNotFoundError):
            hint = f", {nearest(Path(path).name, [file.name for file in Path(path).parent.glob('*.[py]*')])}"
        raise UserError(f"--config: {path or 'no file'}: {getattr(error, 'strerror', error)}{hint}") from None
    if path.endswith(".py"):
        text = open_room("tools.python_config", "--config").read_settings(path, _hints(Config), _Dumper)
    values = _parse(text, path)
    if not isinstance(values, dict | NoneType):
        raise UserError(f"{path}: expected keys and values, found {_shown(values, '')}")
    return values or {}


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
    """``yaml.safe_load``, but 1e-4 is a number, a date stays text, and a key that appears twice is an error.

    So are aliases of aliases that make a small file a huge config.
    """

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' appears twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def get_single_node(self):
        node = super().get_single_node()
        if node and _count_values(node, {}) > _MOST_VALUES:
            problem = f"its aliases make it more than {_MOST_VALUES:,} values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node


def _count_values(node: yaml.Node, counts: dict[yaml.Node, int]) -> int:
    """Return the number of values in a node, with those that its aliases repeat."""
    if node not in counts:
        entries = () if isinstance(node, yaml.ScalarNode) else node.value
        children = (child for entry in entries for child in (entry if isinstance(entry, tuple) else (entry,)))
        counts[node] = 1 + sum(_count_values(child, counts) for child in children)
    return counts[node]


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads back as the same value."""


for _class in (_Loader, _Dumper):
    _number = re.compile(r"[-+]?([0-9][0-9_]*\.?|\.[0-9])[0-9_]*[eE][-+]?[0-9]+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def _help_parser() -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(usage="%(prog)s [--config FILE] [--key value ...]")
    parser.add_argument("--config", "--configs", metavar="FILE", help="YAML file that sets the keys below.")
    parser.add_argument("--print_config", action="store_true", help="Print the resulting config as YAML and exit.")
    parser.add_class_arguments(Config)
    for action in parser._actions:
        # jsonargparse adds flags of its own, which do not exist here: --optim CONFIG, --optim.named.help, --gpu_ids+.
        action.option_strings = [flag for flag in action.option_strings if not flag.endswith(("+", ".help"))]
        if action.metavar == "CONFIG" or not action.option_strings:
            action.help = SUPPRESS
    return parser
