"""What was found, in words that are held to their numbers; knows no chapter.

A reading is a text with fields. ``{rate:%}``, ``{change:points}``, ``{change:interval}``,
``{n:count}``, ``{r:.1f}`` and ``{r:.2f}`` print a number. A field with words in place of a form,
such as ``{rate:about half}``, ``{change:rises}`` or ``{a:higher than b}``, prints the words and is a
claim: if the number does not bear it out, the reading is not shown. Shares and differences are
fractions; a difference with an interval is a row or a mapping with ``effect`` (or ``value``),
``ci_low``, ``ci_high``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from string import Formatter
from typing import Any

from rimkit.data import UserError, nearest, number, percent
from rimkit.data import points as in_points
from rimkit.teaching.tables import estimate

FORMS: dict[str, Callable[[Mapping], str]] = {
    "%": lambda row: f"{percent(row['effect'])}%",
    "points": lambda row: in_points(row["effect"]),
    "interval": estimate,
    "count": lambda row: number(row["effect"], 0),
    ".1f": lambda row: number(row["effect"], 1),
    ".2f": lambda row: number(row["effect"], 2),
}
SHARES = {  # words: between which shares they are true, ends included
    "none": (0, 0), "hardly any": (0, 0.05), "few": (0.01, 0.2), "about a quarter": (0.2, 0.3),
    "about a third": (0.28, 0.39), "about half": (0.42, 0.58), "less than half": (0, 0.499),
    "more than half": (0.501, 1), "most": (0.6, 1), "nearly all": (0.9, 1), "all": (1, 1),
}  # fmt: skip
CHANGES: dict[str, Callable[[float, float], bool]] = {  # words: when an interval bears them out
    "rises": lambda low, high: low > 0,
    "falls": lambda low, high: high < 0,
    "does not clearly change": lambda low, high: low <= 0 <= high,
}


@dataclass(frozen=True)
class Reading:
    """A folded box in a notebook, its text in a terminal."""

    text: str

    def __repr__(self) -> str:
        return f"Our reading: {self.text}"

    def _repr_html_(self) -> str:
        paragraphs = "".join(f"<p>{escape(part)}</p>" for part in self.text.split("\n\n"))
        return f"<details><summary><b>Our reading</b></summary>{paragraphs}</details>"


class WordsAndNumbers(Exception):
    """A claim that its number does not bear out."""


def our_reading(study, text: str, otherwise: str = "", of: str = "rim-mini", **values: Any) -> Reading | None:
    """The text with its numbers, folded, for the embedded model ``of``; ``otherwise`` for any other.

    Where a claim of the text is not borne out (fewer prompts, another seed), ``otherwise`` stands
    alone on the embedded model too, so that what is said is always true. Raises `UserError` for a
    field that names no value or no known words.
    """
    if study.name.partition(":")[0] == of:
        try:
            return Reading(filled(text, values))
        except WordsAndNumbers:
            pass
    return Reading(filled(otherwise, values)) if otherwise else None


def filled(text: str, values: Mapping[str, Any]) -> str:
    """The template with its numbers; raises `WordsAndNumbers` for a claim that is not borne out."""
    rows = {name: _row(value) for name, value in values.items()}
    lines = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    parts = [before + ("" if name is None else _field(name, words, rows))
             for before, name, words, _ in Formatter().parse(lines)]  # fmt: skip
    return "".join(parts).strip()


def _row(value: Any) -> Mapping:
    """A bare number as a row; a row with its ``value`` as its ``effect``."""
    row = dict(value) if hasattr(value, "keys") else {"effect": value}
    return {"effect": row.get("value"), **row}


def _field(name: str, words: str, rows: Mapping[str, Mapping]) -> str:
    if name not in rows:
        raise UserError(f"the reading has no value '{name}'{nearest(name, rows)}")
    row, (relation, _, other) = rows[name], words.partition(" than ")
    size = float(row["effect"])
    if words in FORMS:
        return FORMS[words](row)
    if words in SHARES:
        true = SHARES[words][0] <= size <= SHARES[words][1]
    elif words in CHANGES:
        true = CHANGES[words](row["ci_low"], row["ci_high"])
    elif relation in ("higher", "lower") and other in rows:
        true = (size > rows[other]["effect"]) if relation == "higher" else (size < rows[other]["effect"])
        words = relation
    else:
        known = [*FORMS, *SHARES, *CHANGES]
        raise UserError(f"'{words}' is neither a form nor a known claim ({', '.join(known)}){nearest(words, known)}")
    if not true:
        raise WordsAndNumbers(f"{name} is {size:.4g}, which is not '{words}'")
    return words
