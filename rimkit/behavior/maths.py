"""The final answer of a solution to a maths problem, as an exact number.

Three conventions, in this order: what stands in the last ``\\boxed{...}`` (AIME and what reasoning models are
trained to write), what follows the last ``####`` (GSM8K), else the last number of the text (the usual
fallback). Numbers are compared as fractions: 1,017 = 1017.0, 042 = 42, 3/4 = 0.75 = \\frac{3}{4}.

The fallback mostly errs against the model: "it costs 17 dollars for 2 people" says 2. Where a model does not
mark its answers, read its score as a lower bound.
"""

from __future__ import annotations

import re
from fractions import Fraction

# A sign counts only where nothing stands before it that it could subtract from: in "20-3" the last number is 3.
_NUMBER = r"(?:(?<![\w.)\]])[-−])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
_DECIMAL_ONLY = r"(?:(?<![\w.)\]])[-−])?(?<![\d.])\.\d+"
NUMBER = re.compile(rf"(?:{_NUMBER}|{_DECIMAL_ONLY})(?:/\d+(?![\d.]))?")
_LATEX = (
    (re.compile(r"\\d?t?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}"), r" \1/\2"),
    (re.compile(r"\\d?t?frac\s*(\d)\s*(\d)"), r" \1/\2"),
    (re.compile(r"(?<=\d)(?:\{,\}|\\[,!;: ])(?=\d{3})"), ""),  # 1{,}017 and 1\,017
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}"), " "),  # units
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), " "),
)
# Beside a number: part of something that is not evaluated here.
_MORE = re.compile(r"\d[a-z]|[+*^]|[\w)}]\s*[-−]|\\sqrt|\\pi", re.IGNORECASE)


def number(text: str) -> Fraction | None:
    """The number that ``text`` is, as a whole; None if it is anything else."""
    found = NUMBER.fullmatch(_plain(text).strip().strip("$").rstrip("."))
    return _value(found[0]) if found else None


def final_answer(solution: str) -> Fraction | None:
    """The number that a solution ends with (see the module); None if it gives none.

    A marked answer that is no number ("\\boxed{x+1}") is None: what is marked is what was meant.
    """
    boxed = _boxed(solution)
    if boxed is not None:
        boxed = _plain(boxed)
        found = NUMBER.findall(boxed)  # "x = 3" and units are fine; "2 or 3", "3x" and "2+1" are no answer
        return _value(found[0]) if len(found) == 1 and not _MORE.search(boxed) else None
    _, mark, after = _plain(solution).rpartition("####")
    found = NUMBER.findall(after)
    return _value(found[0 if mark else -1]) if found else None


def gives(solution: str, answer: str) -> bool:
    """Whether the solution's final answer is ``answer``, exactly."""
    said, right = final_answer(solution), number(answer)
    return said is not None and said == right


def written(value: Fraction | None) -> str:
    """The number as the column ``answer`` of a prompt set holds it; empty for None."""
    return "" if value is None else str(value)


def _plain(text: str) -> str:
    for form, plain in _LATEX:
        text = form.sub(plain, text)
    return text


def _value(text: str) -> Fraction | None:
    top, _, bottom = text.replace(",", "").replace("−", "-").partition("/")
    try:
        return Fraction(top) / Fraction(bottom or 1)
    except ZeroDivisionError:
        return None


def _boxed(text: str) -> str | None:
    """What stands between the braces of the last ``\\boxed``, which may hold braces itself; "" if they never close."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    rest, depth = text[start + len("\\boxed") :].lstrip(), 0
    if not rest.startswith("{"):
        return ""
    for place, sign in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return rest[1:place]
    return ""
