"""Config files and flags → a frozen ``Config``, or a UserError that says what is wrong.

Each flag replaces one key of the files' nested dicts, and one walk along the schema checks and builds the whole.
jsonargparse converts each value to its type in ``schema.py``.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser

from common.config.errors import UserError, closest, one_line
from common.config.files import ConfigFile, parse, read_files, write
from common.config.registry import find_room
from common.config.schema import Config, Limit, OptimizerConfig, Section, Terms, find_user
from common.config.secrets import redact, shown

_NAMED = dict[str, OptimizerConfig]
_OPEN = (Section, Section | None, Terms, _NAMED, Any)
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text (in quotes)"}
_WORDS |= {list[str]: "a list of names, such as [logits, label]", **dict.fromkeys(_OPEN, "a section")}


@cache
def _hints(section: Any) -> dict[str, Any]:
    """Return the type of each key of a closed section."""
    own = {"user": find_user()} if section is Config else {}
    return get_type_hints(section, include_extras=True) | own


class WrongKey(UserError):
    """A key, what is wrong with it, and the key that was perhaps meant; ``_load`` adds where it was set."""

    def __str__(self) -> str:
        key, message, *meant = self.args
        return f"{key}: {message}" + "".join(f", did you mean '{other}'?" for other in meant)


def load_config(argv: list[str] | None = None) -> Config:
    """Read flags, or the command line's, and the config file they name.

    ``--config FILE`` (or ``--configs``): one YAML file, or a Python file whose variables are the sections (room tools).
    ``base: other.yaml`` in it: the file only says what it changes in another one. ``--key value`` or ``--key=value``:
    sets that key alone, in any position; the last of two wins. In an open section the value is a YAML scalar, or YAML
    if it begins with ``[``, ``{`` or a quote. ``{...}`` replaces a whole section. ``--help`` and ``--print_config``
    print and exit. Raise a UserError for a mistake.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        if {"-h", "--help"} & set(argv):
            _help_parser().parse_args(["--help"])  # which exits
        flags = _flags([word for word in argv if word != "--print_config"])
        path = flags.pop("config", None)
        files = [] if path is None else read_files(path, _hints(Config))
        config = _load(files, flags)
    except RecursionError as error:
        raise UserError(f"{error}") from None
    if "--print_config" in argv:
        tool, text = find_room("tools.origins"), dump_config(config)
        print(tool.annotate(text, files, flags) if tool else text, end="")
        raise SystemExit(0)
    return config


def dump_config(config: Config, change: Callable[[dict], dict] = dict) -> str:
    """Return the config, ``change``d as a plain dict (such as by ``redact``), as YAML that ``load_config`` reads."""
    return write(change(asdict(config)))


def _load(files: list[ConfigFile], flags: dict[str, str]) -> Config:
    values: dict[str, Any] = {}
    for file in reversed(files):
        values = _merge(Config, values, file.values)
    try:
        for key, text in flags.items():
            _put(values, key, text)
        config = _typed(Config, {**values, "user": values.get("user")}, "")
        _check_best_metric(config)
        return config
    except WrongKey as wrong:
        key, message, *meant = wrong.args
        if not files or any(f"{flag}.".startswith(f"{key}.") or key.startswith(f"{flag}.") for flag in flags):
            raise WrongKey(f"--{key}", message, *(f"--{other}" for other in meant)) from None
        _, place = max((file.find(key.split(".")) for file in files), key=lambda found: found[0])
        raise WrongKey(f"{place}: {key}", message, *meant) from None


def _merge(hint: Any, old: Any, new: Any) -> Any:
    """Return a value over that of the base file: a section changes key by key, all else is replaced.

    So is an open section, or ``args``, where both files name a ``type`` and it is another one. An empty section changes
    nothing, unless null is a value there.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        is_value = not isinstance(old, dict) or hint is Any or NoneType in get_args(hint)
        return old if new is None and not is_value else new
    if "type" in old and old["type"] != new.get("type", old["type"]):
        old = {key: value for key, value in old.items() if is_dataclass(hint) and key != "args"}
    return old | {key: _merge(_child(hint, key), old.get(key), value) for key, value in new.items()}


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
            raise WrongKey(key, f"{section} is {shown(inner, key)}, not a section")
        values[section] = dict(inner or {})  # a copy, since a YAML alias may have put one dict in two places
        values = values[section]
    values[name] = parse(text, f"--{key}")[0] if _child(hint, name) in _OPEN else text


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
        raise WrongKey(key, f"expected keys below it, found {shown(value, key)}")
    typed = {}
    for name, item in (value or {}).items():
        full_key = f"{key}.{name}" if key else f"{name}"
        if (child := _child(hint, name)) is None:
            raise _unknown(hint, full_key)
        typed[name] = _typed(child, item, full_key)
    if hint == Terms:
        return {name: section for name, section in typed.items() if section is not None}
    return _make(hint, typed, key) if is_dataclass(hint) else typed


def _make(section: Any, typed: dict[str, Any], key: str) -> Any:
    """Return a closed section; your own may have keys without a default, and refuse values."""
    for one in fields(section):
        if one.init and one.name not in typed and one.default is one.default_factory is MISSING:
            raise WrongKey(f"{key}.{one.name}", "is missing, and has no default")
    try:
        return section(**typed)
    except Exception as error:  # of a class of yours
        raise WrongKey(key, one_line(error)) from None


def check_value(hint: Any, value: Any, key: str) -> Any:
    """Return a value as its type; raise a UserError that begins with its key if it does not fit."""
    limit = _limit(hint)
    with suppress(Exception):  # ArgumentError, and whatever PyYAML lets through underneath it
        typed = _converter(hint).parse_object({"value": value}, env=False).value
        if limit.fits(typed):
            return typed
    raise WrongKey(key, f"expected {limit.words}, found {shown(value, key)}")


def _limit(hint: Any) -> Limit:
    """Return what a value of a type must meet."""
    if NoneType in get_args(hint):
        words, fits = _limit(get_args(hint)[0])
        return Limit(f"{words}, or null", lambda value: value is None or fits(value))
    if get_origin(hint) is Annotated:
        return hint.__metadata__[0]
    choices = ", ".join(map(str, get_args(hint))) if get_origin(hint) is Literal else ""
    return Limit(f"one of {choices}" if choices else _WORDS.get(hint, f"a value of type {hint}"))


@cache
def _converter(hint: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    return parser


def _child(hint: Any, name: str) -> Any:
    """Return the type of a key in a section; None if there is no such key."""
    if is_dataclass(hint):
        return _hints(hint).get(name)
    below = OptimizerConfig if hint == _NAMED else Section | None if hint == Terms else Any
    return below if hint in _OPEN else None


def _unknown(section: Any, key: str) -> WrongKey:
    """Return what to say of an unknown key; perhaps a namesake in another section was meant, or the nearest here."""
    path, _, name = key.rpartition(".")
    for other, hint in _hints(Config).items():
        if is_dataclass(hint) and name in _hints(hint):
            return WrongKey(key, "unknown key", f"{other}.{name}")
    if match := closest(name, _hints(section)):
        return WrongKey(key, "unknown key", f"{path}.{match}".removeprefix("."))
    known = ", ".join(sorted(_hints(section))) or "none; a dataclass User in user.py of your package may name some"
    return WrongKey(key, f"unknown key, known: {known}")


def _check_best_metric(config: Config) -> None:
    """Refuse what watches checkpoint.best_metric where there is none."""
    watching = {"trainer.early_stop": config.trainer.early_stop}
    optimizers = {"optim": config.optim, **{f"optim.named.{name}": one for name, one in config.optim.named.items()}}
    for where, one in optimizers.items():
        watching[f"{where}.lr_scheduler"] = (one.lr_scheduler or {}).get("type") == "ReduceLROnPlateau"
    for key, watches in watching.items():
        if watches and not config.checkpoint.best_metric:
            raise WrongKey(key, "needs checkpoint.best_metric, the validation result to watch")


def _help_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(usage="%(prog)s [--config FILE] [--key value ...]")
    parser.add_argument("--config", "--configs", metavar="FILE", help="YAML file that sets the keys below.")
    parser.add_argument("--print_config", action="store_true", help="Print the resulting config as YAML and exit.")
    _add_keys(parser, Config)
    return parser


def _add_keys(parser: argparse.ArgumentParser, section: Any, prefix: str = "") -> None:
    """Add the keys of a closed section, and of the sections in it, with the meanings that their docstrings give."""
    documented = [parse_from_object(one) for one in section.__mro__[:-1]]
    meanings = {one.arg_name: one.description for found in reversed(documented) for one in found.params}
    group = parser.add_argument_group((documented[0].short_description or "").rstrip("."))
    for one in fields(section):
        key, hint = f"{prefix}{one.name}", _hints(section)[one.name]
        if is_dataclass(hint):
            _add_keys(parser, hint, f"{key}.")
        else:
            default = one.default if one.default_factory is MISSING else one.default_factory()
            given = (
                "required"
                if default is MISSING
                else f"default: {default if isinstance(default, str) else json.dumps(default, default=str)}"
            )
            text = f"{meanings.get(one.name) or ''} ({_limit(hint).words}; {given})"
            group.add_argument(f"--{key}", metavar=one.name.upper(), help=text.replace("%", "%%"))
