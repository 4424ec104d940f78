"""The exceptions that are shown as a single line, never as a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in a config, a flag, a path or a file.

    The message names the place, what was found and what was expected, in one line. ``launch`` prints it and
    exits with the code.
    """

    exit_code = 2


class RunError(UserError):
    """A run that cannot go on for a reason that can be named: out of memory, a full disk, a loss that is not finite.

    The message names the place, the reason, and what to change.
    """

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that ends an error message: the nearest of the known names, or all of them."""
    known = sorted(known)
    match = get_close_matches(name, known, n=1, cutoff=0.6)
    if match:
        return f"did you mean '{match[0]}'?"
    return f"known: {', '.join(known) or 'none'}"
