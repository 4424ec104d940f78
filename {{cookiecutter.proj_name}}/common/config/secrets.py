"""Passwords and tokens in a config, kept out of whatever others may read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

HIDDEN = "***"
_SECRET_KEY = re.compile(r"token|key|passw(or)?d|secret", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")


def redact(value: Any, key: str = "") -> Any:
    """Return plain data in which secrets are hidden: text under keys such as ``api_key``, credentials in an address."""
    if isinstance(value, dict):
        return {name: redact(item, f"{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [redact(item, key) for item in value]
    if not isinstance(value, str) or not value:
        return value
    return HIDDEN if _SECRET_KEY.search(key) else _CREDENTIALS.sub(HIDDEN, value)


def find_secrets(value: Any, key: str = "") -> Iterator[str]:
    """Yield each text that ``redact`` hides."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from find_secrets(item, f"{name}")
    elif isinstance(value, list):
        for item in value:
            yield from find_secrets(item, key)
    elif isinstance(value, str) and value:
        yield from [value] if _SECRET_KEY.search(key) else _CREDENTIALS.findall(value)


def hide(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without the secrets and without credentials in addresses."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _CREDENTIALS.sub(HIDDEN, text)
