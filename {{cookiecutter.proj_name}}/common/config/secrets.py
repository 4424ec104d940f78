"""Passwords and tokens in a config, kept out of whatever others may read.

A key is secret if its name holds ``password``, ``secret``, ``credential`` or ``api_key``, or ends in ``token`` or
``key``. All text and numbers below it are hidden, except for numbers under ``...tokens``, which are counts. Under any
key, so are the credentials in an address (``://user:password@``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
_NAME = r"[\w-]*(?:passw(?:or)?d|passphrase|secret|credential|api_?key)[\w-]*|[\w-]*(?:token|key)s?[_-]?\d*"
_SECRET_KEY = re.compile(_NAME, re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_ASSIGNED = re.compile(rf"""(?<![\w-])(?:{_NAME})["']?\s*[:=]""", re.IGNORECASE)
_ASSIGNED_IN_CODE = re.compile(
    rf"""(?<![\w-])((?:{_NAME})["']?\]?\s*(?::[\w\s.|\[\]]+)?[:=]\s*\w?)(["'])(?!\2).+?\2""", re.IGNORECASE
)


def redact(value: Any, key: str = "", mask: Callable[[Any], str] = lambda secret: HIDDEN) -> Any:
    """Return plain data with each secret masked; ``key`` is the dotted key at which the data stands."""
    is_secret = any(map(_SECRET_KEY.fullmatch, key.split(".")))
    if isinstance(value, dict):
        return {name: redact(item, "secret" if is_secret else str(name), mask) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(item, key, mask) for item in value]
    if isinstance(value, str):
        return mask(value) if is_secret and value else _CREDENTIALS.sub(lambda found: mask(found[0]), value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return mask(value) if is_secret and is_number and not key.endswith("tokens") else value


def digest(secret: Any) -> str:
    """Return what tells a secret from most others without giving it away: 16 bits of its hash."""
    text = str(secret)
    return text if text.startswith(HIDDEN) else f"{HIDDEN} {sha256(ascii(text).encode()).hexdigest()[:4]}"


def find_secrets(value: Any) -> set[str]:
    """Return each text that ``redact`` hides, and each number of four digits or more."""
    found: set[Any] = set()
    redact(value, mask=lambda secret: found.add(secret) or HIDDEN)
    lines = {line for secret in found if isinstance(secret, str) for line in secret.splitlines() if len(line) > 7}
    return lines | {str(secret) for secret in found if isinstance(secret, str) or len(str(secret)) > 3}


def hide(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without the secrets, quoted or not, and without the credentials in addresses.

    What is short, or a number, is hidden as a whole word only.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        for form in {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, "", errors="replace")}:
            is_long = len(form) > 7 and not form.isdigit()
            text = text.replace(form, HIDDEN) if is_long else re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", HIDDEN, text)
    return _CREDENTIALS.sub(HIDDEN, text)


def hide_in_code(text: str) -> str:
    """Return source code without what stands in quotes after names such as ``api_key``."""
    return _ASSIGNED_IN_CODE.sub(rf"\1\2{HIDDEN}\2", text)


def has_secrets(text: str) -> bool:
    """Return whether the text of a config or a script seems to give a secret a value."""
    return _ASSIGNED.search(text) is not None


def shown(value: Any, key: str = "") -> str:
    """Return what an error shows of a value: its beginning, without secrets."""
    return HIDDEN if isinstance(value, str) and has_secrets(value) else f"{redact(value, key)!r:.60}"
