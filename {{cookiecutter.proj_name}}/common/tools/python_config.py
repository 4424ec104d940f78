"""A config as a Python file: its settings may be computed."""

import runpy
import traceback
from collections.abc import Collection
from pathlib import Path
from types import NoneType

import yaml

from common.config.errors import UserError

_PLAIN = (dict, list, tuple, str, int, float, NoneType)


def read_settings(path: str, keys: Collection[str], dumper: type[yaml.SafeDumper]) -> bytes:
    """Run a Python config; return its public plain values, and all that has a config key's name, as YAML.

    Raise a UserError with the line at which it fails.
    """
    full_path = str(Path(path).resolve())
    try:
        found = runpy.run_path(full_path)
        kept = {n: value for n, value in found.items() if n in keys or (isinstance(value, _PLAIN) and n[0] != "_")}
        return yaml.dump(kept, Dumper=dumper, sort_keys=False, encoding="utf-8")
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == full_path]
        line = getattr(frames[-1] if frames else error, "lineno", None)
        place = f"{path}:{line}" if line else path
        raise UserError(f"{place}: {type(error).__name__}: {getattr(error, 'msg', error)}") from None
