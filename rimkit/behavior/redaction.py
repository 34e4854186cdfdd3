"""Text that must not be shown or saved: requests of real safety sets, replies to harmful ones.

Whoever loads or generates such text calls `withhold`; from then on everything that the running
Jupyter kernel sends out (printed text, tables, widgets, tracebacks) goes through `scrub`, so that
neither the screen nor a saved notebook holds it. `keep_text` (``rimkit run --keep-text``) switches
it off. What it cannot see: text drawn into an image, a file that a cell of your own writes, a
single word, and fewer than four or so words out of their context.
"""

import json
import re
import sys
from collections.abc import Iterable
from html import unescape
from threading import Lock
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote

import numpy as np
import pandas as pd

WITHHELD = "[text withheld]"
# Bytes of letters in a row that give a text away (a sign that is a word or syllable has three).
# Longer for what a model says: it is far more text, in words that a chapter may use as well.
REQUEST, SAID = 16, 24
SHORTEST = 8  # shorter texts count where they stand as words of their own
_PRIME = 1_099_511_628_211

# Between two stretches of which one may be shown and the other not: markup, ends of lines, colours.
_BETWEEN = re.compile(r"(<[^<>]*>|\n|\\n|\x1b\[[0-9;]*m)")
# What one text may have and the same text elsewhere not: spaces, signs, digits, entities, escapes.
_NOT_LETTERS = re.compile(r"&#?\w+;|\\[a-z]|[\W\d_]+")
# Letters in other signs: entities of HTML, %-encoding, escapes of json, starts of tokens.
_CODED = re.compile(r"&#?\w+;|(?:%[0-9a-f]{2})+|(?:\\+u[0-9a-f]{4})+|[ĠĊ]", re.IGNORECASE)
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
    """Every run of ``size`` bytes of the texts added, as one number each."""

    def __init__(self, size: int):
        self.size = size
        self._powers = np.cumprod(np.full(size, _PRIME, np.uint64))  # wraps around 2**64
        self._known = np.empty(0, np.uint64)
        self._lock = Lock()  # a kernel sends printed text from a thread of its own

    def add(self, texts: Iterable[bytes]) -> None:
        new = [self._numbers(text) for text in texts]
        with self._lock:
            self._known = np.unique(np.concatenate([self._known, *new]))

    def found(self, text: bytes) -> np.ndarray:
        """Which of the bytes lie in a known run, as booleans."""
        known, inside, numbers = self._known, np.zeros(len(text), bool), self._numbers(text)
        if len(numbers) and len(known):
            hits = known[np.searchsorted(known, numbers).clip(max=len(known) - 1)] == numbers
            for offset in range(self.size):
                inside[offset : offset + len(hits)] |= hits
        return inside

    def _numbers(self, text: bytes) -> np.ndarray:
        codes = np.frombuffer(text, np.uint8).astype(np.uint64)
        if len(codes) < self.size:
            return np.empty(0, np.uint64)
        return np.lib.stride_tricks.sliding_window_view(codes, self.size) @ self._powers


_requests, _said = Fingerprints(REQUEST), Fingerprints(SAID)
_short: set[bytes] = set()  # letters that are looked for anywhere
_words: set[str] = set()  # words that are looked for in a row
_alone: set[str] = set()  # words that are looked for as the whole of a line or cell
_harmful: set[str] = set()


def withhold(requests: Iterable[str] = (), said: Iterable[str] = ()) -> None:
    """Keep these requests, and what was said to such, in the process (unless text is kept)."""
    if keeps_text():
        return
    for texts, marks, few in ((requests, _requests, _words), (said, _said, _alone)):
        texts = set(texts)
        marks.add(map(_letters, texts))
        for text in texts:
            letters, words = _letters(text), _in_words(text)
            if len(letters) >= marks.size or (words.isascii() and " " not in words):
                continue  # a word is no text
            if len(letters) >= SHORTEST or (few is _words and not words.isascii()):
                _short.add(letters)
            else:
                few.add(words)
    _guard_kernel()


def withhold_replies(prompts: pd.DataFrame, replies: pd.DataFrame) -> None:
    """Withhold what a real model thinks and says to harmful requests, and to withheld ones."""
    chosen = replies[replies["prompt_id"].isin(prompts.loc[are_harmful(prompts), "prompt_id"])]
    if len(chosen):
        withhold(said=[*chosen["thought"].dropna(), *chosen["reply"].dropna()])


def are_harmful(prompts: pd.DataFrame) -> pd.Series:
    """Which requests are harmful or withheld, so that replies of real models to them are too."""
    kinds = prompts["kind"] if "kind" in prompts else pd.Series("", index=prompts.index)
    text = prompts["text"].astype(str)
    return (kinds == "harmful") | text.isin(_harmful) | text.map(is_withheld)


def remember_harmful(prompts: pd.DataFrame) -> None:
    """Note the harmful requests of a set, to know them as such even without their ``kind``."""
    _harmful.update(prompts.loc[prompts["kind"] == "harmful", "text"])


def is_withheld(text: str) -> bool:
    """Whether any of it would be replaced."""
    return scrub(text) != text


def scrub(text: str) -> str:
    """The text with `WITHHELD` in place of every line, cell, … that holds withheld text."""
    stretches = _BETWEEN.split(text)  # every other one is what stands between
    letters = [b"" if place % 2 else _letters(part) for place, part in enumerate(stretches)]
    inside = _inside(b"".join(letters))
    end = 0
    for place, found in enumerate(letters):
        start, end = end, end + len(found)
        if inside[start:end].any() or (place % 2 == 0 and _holds_words(stretches[place])):
            stretches[place] = WITHHELD
    return "".join(stretches)


def label(text: str, name: str) -> str:
    """The text, or ``name`` where it is withheld, so that rows can still be told apart."""
    return f"{name} {WITHHELD}" if is_withheld(str(text)) else text


def _decoded(text: str) -> str:
    """The text with its letters in their usual signs, however it was written."""

    def letters(found: re.Match) -> str:
        coded = found[0]
        if coded[0] == "\\":
            return json.loads('"' + re.sub(r"\\+u", r"\\u", coded, flags=re.IGNORECASE) + '"')
        return {"%": unquote, "&": unescape}[coded[0]](coded) if len(coded) > 1 else " "

    return normalize("NFKC", _CODED.sub(letters, text))


def _letters(text: str) -> bytes:
    return _NOT_LETTERS.sub("", _decoded(text)).lower().encode("utf-8", "surrogatepass")


def _in_words(text: str) -> str:
    return " ".join(_NOT_LETTERS.sub(" ", _decoded(text)).lower().split())


def _holds_words(stretch: str) -> bool:
    words = _in_words(stretch) if _words or _alone else ""
    return words in _alone or any(f" {few} " in f" {words} " for few in tuple(_words))


def _inside(letters: bytes) -> np.ndarray:
    inside = _requests.found(letters) | _said.found(letters)
    for text in tuple(_short):
        start = letters.find(text)
        while start >= 0:
            inside[start : start + len(text)] = True
            start = letters.find(text, start + 1)
    return inside


def _guard_kernel() -> None:
    """Let the session of the running kernel, if this is one, scrub all that it packs."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    session = getattr(getattr(shell, "kernel", None), "session", None)
    pack = getattr(session, "pack", None)
    if pack and not hasattr(pack, "scrubs"):

        def scrubbing(content: Any) -> bytes:
            return pack(_scrubbed(content))

        scrubbing.scrubs = True
        session.pack = scrubbing


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {key: item if key in _OPAQUE else _scrubbed(item) for key, item in value.items()}
    return [_scrubbed(item) for item in value] if isinstance(value, list | tuple) else value
