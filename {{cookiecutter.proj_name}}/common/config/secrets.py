"""Passwords and tokens in a config, kept out of whatever others may read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "***"
_SECRET_KEY = re.compile(r"token(?!iz)|key(?!point)|passw(or)?d|secret", re.IGNORECASE)  # no tokenizer, no keypoints
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")


def redact(value: Any, key: str = "") -> Any:
    """Return plain data in which secrets are hidden: text under keys such as ``api_key``, credentials in an address."""
    if isinstance(value, dict):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [redact(item, key) for item in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and _SECRET_KEY.search(key) else hide(value)


def find_secrets(value: Any, key: str = "") -> set[str]:
    """Return each text that ``redact`` hides."""
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else [(key, item) for item in value]
        return {secret for name, item in items for secret in find_secrets(item, str(name))}
    if not isinstance(value, str) or not value:
        return set()
    return {value} if _SECRET_KEY.search(key) else {*_CREDENTIALS.findall(value)}


def hide(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without the secrets and without credentials in addresses."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _CREDENTIALS.sub(HIDDEN, text)
