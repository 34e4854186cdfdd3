"""Errors that a user can act on."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """One line saying what was wrong and what to do; the command line prints it and exits with 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    close = get_close_matches(str(name), [str(item) for item in known], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
