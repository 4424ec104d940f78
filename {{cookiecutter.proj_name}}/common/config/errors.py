"""The exceptions that are shown as a single line, never as a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in a config, a flag, a path or a file; the message names the place, what was found and expected."""

    exit_code = 2


class RunError(UserError):
    """A run that cannot continue; the message names the place, the known reason (a full disk), and what to change."""

    exit_code = 1


def one_line(error: BaseException, limit: int = 160) -> str:
    """Return the message of an exception on one line, cut after ``limit`` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + "…"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like a misspelled one; None if none is like it."""
    return next(iter(get_close_matches(f"{name}", sorted(known), n=1)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that ends an error message: the nearest of the known names, or all of them."""
    known = sorted(known)
    match = closest(name, known)
    return f"did you mean '{match}'?" if match else f"known: {', '.join(known) or 'none'}"
