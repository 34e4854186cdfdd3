"""What was found, in words that are held to their numbers; knows no chapter.

A reading is a text with fields. ``{rate:%}``, ``{change:points}``, ``{change:interval}``, ``{n:count}`` and
``{r:.2f}`` print a number; a field with words in place of a form, such as ``{rate:about half}`` or
``{change:rises}``, prints the words and is a claim: if the number does not bear it out, the reading is not
shown. Shares and differences are fractions; a difference with an interval is a mapping with ``effect``
(or ``value``), ``ci_low``, ``ci_high``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from string import Formatter
from typing import Any

from rimkit.data import UserError, interval, nearest, number, percent
from rimkit.data import points as in_points

FORMS: dict[str, Callable[[Any], str]] = {
    "%": lambda value: f"{percent(size(value))}%",
    "points": lambda value: in_points(size(value)),
    "interval": lambda value: f"{in_points(size(value))} {interval(*ends(value), in_points)}",
    "count": lambda value: number(size(value), 0),
    ".1f": lambda value: number(size(value), 1),
    ".2f": lambda value: number(size(value), 2),
}
CLAIMS: dict[str, Callable[[Any], bool]] = {
    "rises": lambda value: ends(value)[0] > 0,
    "falls": lambda value: ends(value)[1] < 0,
    "does not clearly change": lambda value: ends(value)[0] <= 0 <= ends(value)[1],
    "none": lambda value: size(value) == 0,
    "hardly any": lambda value: 0 <= size(value) < 0.05,
    "few": lambda value: 0 < size(value) < 0.2,
    "about a quarter": lambda value: 0.2 <= size(value) <= 0.3,
    "about a third": lambda value: 0.28 <= size(value) <= 0.39,
    "about half": lambda value: 0.42 <= size(value) <= 0.58,
    "less than half": lambda value: size(value) < 0.5,
    "more than half": lambda value: size(value) > 0.5,
    "most": lambda value: size(value) > 0.6,
    "nearly all": lambda value: 0.9 < size(value) <= 1,
    "all": lambda value: size(value) == 1,
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

    Both are templates with the fields that the head of this file describes. Where a claim is not borne out
    on the embedded model (fewer prompts, another seed), ``otherwise`` stands alone as well, so that what
    is said is always true. Raises `UserError` for a field that names no value or no known words.
    """
    if study.name.partition(":")[0] == of:
        try:
            return Reading(filled(text, values))
        except WordsAndNumbers:
            pass
    return Reading(filled(otherwise, values)) if otherwise else None


def filled(text: str, values: Mapping[str, Any]) -> str:
    """The template with its numbers; raises `WordsAndNumbers` for a claim that a number does not bear out."""
    parts = []
    for before, name, words, _ in Formatter().parse("\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))):
        parts.append(before)
        if name is None:
            continue
        if name not in values:
            raise UserError(f"the reading has no value '{name}'{nearest(name, values)}")
        parts.append(_field(name, words, values))
    return "".join(parts).strip()


def _field(name: str, words: str, values: Mapping[str, Any]) -> str:
    value, (relation, _, other) = values[name], words.partition(" than ")
    if words in FORMS:
        return FORMS[words](value)
    if relation in ("higher", "lower") and other in values:
        true = size(value) > size(values[other]) if relation == "higher" else size(value) < size(values[other])
        words = relation
    elif words in CLAIMS:
        true = CLAIMS[words](value)
    else:
        raise UserError(f"'{words}' is neither a form ({', '.join(FORMS)}) nor a known claim{nearest(words, CLAIMS)}")
    if not true:
        raise WordsAndNumbers(f"{name} is {size(value):.4g}, which is not '{words}'")
    return words


def size(value: Any) -> float:
    """The number itself: the effect or the value of a mapping."""
    if isinstance(value, Mapping) or hasattr(value, "index"):
        return float(value["effect"] if "effect" in value else value["value"])
    return float(value)


def ends(value: Any) -> tuple[float, float]:
    """The interval of a mapping."""
    return float(value["ci_low"]), float(value["ci_high"])
