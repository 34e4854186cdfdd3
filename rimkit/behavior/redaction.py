"""Text that must not be shown or saved: requests of real safety sets, and what real models say to harmful ones.

Such text is needed in memory (a model reads it, a judge reads the reply) and nowhere else. Whoever loads or
generates it calls `withhold`; from then on everything that the running Jupyter kernel sends out (printed text,
tables, widgets, figures' descriptions, tracebacks) goes through `scrub`, so that neither the screen nor a saved
or executed notebook holds it, however a chapter shows it. Ids, categories, verdicts and numbers stay.

`keep_text` switches it off: a chapter's parameter, which ``rimkit run --keep-text`` fills.

What it cannot see: text drawn into an image, a file that a cell of your own writes,
and fewer than four or so words out of their context.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

WITHHELD = "[text withheld]"
# Letters in a row that give a text away. Longer for what a model says: it is far more text, in words that a
# chapter may use as well.
REQUEST, SAID = 16, 24
SHORTEST = 8

# Between two stretches of which one may be shown and the other not: markup, ends of lines, colours.
_BETWEEN = re.compile(r"(<[^<>]*>|\n|\\n|\x1b\[[0-9;]*m)")
# What one text may have and the same text elsewhere not: spaces, signs, digits, entities, escapes.
_NOT_LETTERS = re.compile(r"&#?\w+;|\\[a-z]|[\W\d_]+")
_OPAQUE = ("image/png", "image/jpeg", "image/gif", "application/pdf")  # base64, not text


_kept = False


def keep_text(keep: bool = True) -> None:
    """Let this process show and save such text from now on, or no longer."""
    global _kept
    _kept = keep


def keeps_text() -> bool:
    """Whether this process was told to show and save such text."""
    return _kept


class Fingerprints:
    """Every run of ``size`` letters of the texts added, as one number each."""

    def __init__(self, size: int):
        self.size = size
        self._known, self._new = np.empty(0, np.uint64), []
        self._lock = Lock()  # a kernel sends printed text from a thread of its own

    def add(self, letters: Iterable[str]) -> None:
        new = [self._numbers(text) for text in letters]
        with self._lock:
            self._new += new

    def found(self, letters: str) -> np.ndarray:
        """Which of the letters lie in a known run, as booleans."""
        with self._lock:
            if self._new:
                self._known, self._new = np.unique(np.concatenate([self._known, *self._new])), []
            known = self._known
        inside = np.zeros(len(letters), bool)
        numbers = self._numbers(letters)
        if not len(numbers) or not len(known):
            return inside
        hits = np.flatnonzero(known[np.searchsorted(known, numbers).clip(max=len(known) - 1)] == numbers)
        for offset in range(self.size if len(hits) else 0):
            inside[hits + offset] = True
        return inside

    def _numbers(self, letters: str) -> np.ndarray:
        codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        count = len(codes) - self.size + 1
        numbers = np.zeros(max(count, 0), np.uint64)
        for offset in range(self.size if count > 0 else 0):  # wraps around 2**64, as a hash may
            numbers = numbers * np.uint64(1_099_511_628_211) + codes[offset : offset + count]
        return numbers


_requests, _said = Fingerprints(REQUEST), Fingerprints(SAID)
_short: set[str] = set()
_harmful: set[str] = set()


def withhold(requests: Iterable[str] = (), said: Iterable[str] = ()) -> None:
    """Keep these requests, and what was said to such, from leaving the process; nothing if text is kept."""
    if keeps_text():
        return
    letters = [_letters(text) for text in requests]
    _requests.add(letters)
    _short.update(text for text in letters if SHORTEST <= len(text) < REQUEST)
    _said.add(_letters(text) for text in said)
    _guard_kernel()


def withhold_replies(prompts: pd.DataFrame, replies: pd.DataFrame) -> None:
    """Withhold the thoughts and replies of a real model to harmful requests, and to those withheld themselves."""
    kinds = prompts["kind"] if "kind" in prompts else pd.Series("", index=prompts.index)
    text = prompts["text"].astype(str)
    harmful = (kinds == "harmful") | text.isin(_harmful) | text.map(is_withheld)
    chosen = replies[replies["prompt_id"].isin(prompts.loc[harmful, "prompt_id"])]
    if len(chosen):
        withhold(said=[*chosen["thought"].dropna(), *chosen["reply"].dropna()])


def withholding(generate: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    """The same way of generating replies, after which `withhold_replies` is never forgotten."""

    @wraps(generate)
    def guarded(model, prompts: pd.DataFrame, *arguments, **settings) -> pd.DataFrame:
        replies = generate(model, prompts, *arguments, **settings)
        if not model.invented:
            withhold_replies(prompts, replies)
        return replies

    return guarded


def remember_harmful(prompts: pd.DataFrame) -> None:
    """Note the harmful requests of a set, so that they are known as such even without their ``kind``."""
    _harmful.update(prompts.loc[prompts["kind"] == "harmful", "text"])


def is_withheld(text: str) -> bool:
    """Whether any of it would be replaced."""
    return scrub(text) != text


def scrub(text: str) -> str:
    """The text with `WITHHELD` in place of every line, cell or other stretch that holds withheld text."""
    stretches = _BETWEEN.split(text)
    letters = [_letters(stretch) if place % 2 == 0 else "" for place, stretch in enumerate(stretches)]
    inside = _inside("".join(letters))
    if not inside.any():
        return text
    end = 0
    for place, found in enumerate(letters):
        start, end = end, end + len(found)
        if inside[start:end].any():
            stretches[place] = WITHHELD
    return "".join(stretches)


def label(text: str, name: str) -> str:
    """The text, or ``name`` in its place where it is withheld, so that rows can still be told apart."""
    return f"{name} {WITHHELD}" if is_withheld(str(text)) else text


def _letters(text: str) -> str:
    return _NOT_LETTERS.sub("", text).lower()


def _inside(letters: str) -> np.ndarray:
    inside = _requests.found(letters) | _said.found(letters)
    for text in tuple(_short):
        start = letters.find(text)
        while start >= 0:
            inside[start : start + len(text)] = True
            start = letters.find(text, start + 1)
    return inside


# -- the kernel ----------------------------------------------------------------------------------------


def _guard_kernel() -> None:
    """Let the session of the running kernel, if this is one, scrub all that it packs into messages."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    session = getattr(getattr(shell, "kernel", None), "session", None)
    if session is not None and not isinstance(session.pack, _ScrubbingPacker):
        session.pack = _ScrubbingPacker(session.pack)


class _ScrubbingPacker:
    def __init__(self, pack):
        self.pack = pack

    def __call__(self, content: Any) -> bytes:
        return self.pack(_scrubbed(content))


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value) if len(value) >= SHORTEST else value
    if isinstance(value, dict):
        return {key: item if key in _OPAQUE else _scrubbed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(item) for item in value]
    return value
