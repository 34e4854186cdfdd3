"""Exercises and predictions: the messages do the teaching.

An exercise's check has three outcomes: *not attempted*, *wrong because …*, *right*. A prediction is a guess
written down before the result is seen; afterwards one sentence says how far off it was. What a learner types
never raises: it is answered with one clear line, so that a notebook always runs to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

from rimkit.data import UserError, nearest

DIFFICULTIES = ("easy", "medium", "hard")
IMPORTANCES = ("essential", "useful", "optional")
NOT_ATTEMPTED, WRONG, RIGHT = "not attempted", "wrong", "right"


@dataclass(frozen=True)
class Note:
    """Text for a learner: plain in a terminal, Markdown in a notebook."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.text


@dataclass(frozen=True)
class Feedback:
    """The outcome of a check: ``status`` is "not attempted", "wrong" or "right"."""

    status: str
    message: str

    def __bool__(self) -> bool:
        return self.status == RIGHT

    def __repr__(self) -> str:
        return f"{self.status.capitalize()}: {self.message}"

    def _repr_html_(self) -> str:
        sign = {NOT_ATTEMPTED: "○", WRONG: "✗", RIGHT: "✓"}[self.status]
        return f"<p>{sign} <b>{escape(self.status.capitalize())}:</b> {escape(self.message)}</p>"


class Exercise:
    """A question with a check, a hint and a solution.

    ``check`` takes the learner's answer and returns True if it is right, otherwise the sentence that says why
    it is wrong (what follows "because"). It may raise ``TypeError``, ``ValueError``, ``KeyError``,
    ``IndexError`` or ``AttributeError`` for answers of an unexpected kind: the learner is told so, and what
    the exercise ``expects`` ("a number between 0 and 1").

    ``difficulty`` is one of `DIFFICULTIES`, ``importance`` one of `IMPORTANCES`, ``minutes`` a guess.
    """

    def __init__(
        self,
        title: str,
        difficulty: str,
        importance: str,
        minutes: int,
        question: str,
        check: Callable[[Any], bool | str],
        hint: str,
        solution: str,
        expects: str = "",
    ):
        for name, value, known in (
            ("difficulty", difficulty, DIFFICULTIES),
            ("importance", importance, IMPORTANCES),
        ):
            if value not in known:
                raise UserError(f"{name} is {', '.join(known)}, not '{value}'{nearest(value, known)}")
        self.title, self.difficulty, self.importance, self.minutes = title, difficulty, importance, minutes
        self.question, self.expects = question, expects
        self._check, self._hint, self._solution = check, hint, solution

    def check(self, answer: Any = None) -> Feedback:
        """Not attempted (nothing, ``None`` or ``...``), wrong because, or right."""
        if answer is None or answer is ... or (isinstance(answer, str) and not answer.strip("_ ")):
            return Feedback(NOT_ATTEMPTED, "put your answer into check(…); hint() helps.")
        try:
            found = self._check(answer)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            expected = f"; this exercise expects {self.expects}" if self.expects else ""
            kind = type(answer).__name__
            return Feedback(WRONG, f"because your answer (a {kind}) could not be checked: {error}{expected}.")
        if isinstance(found, str):
            return Feedback(WRONG, f"because {found}")
        if bool(found):
            return Feedback(RIGHT, "well done.")
        return Feedback(WRONG, "because it is not what the question asks for; hint() helps.")

    def hint(self) -> Note:
        return Note(f"**Hint.** {self._hint}")

    def solution(self) -> Note:
        return Note(f"**Solution.** {self._solution}")

    def __repr__(self) -> str:
        header = f"{self.difficulty}, {self.importance}, about {self.minutes} minutes"
        return f"Exercise: {self.title} ({header})\n{self.question}"

    def _repr_markdown_(self) -> str:
        return (
            f"**Exercise: {self.title}**  \n*Difficulty: {self.difficulty}. Importance: {self.importance}. "
            f"About {self.minutes} minutes.*\n\n{self.question}"
        )


@dataclass(frozen=True)
class Prediction:
    """A guess; ``guess`` is None if there was none, and ``note`` says what became of it."""

    name: str
    guess: float | None
    low: float
    high: float
    unit: str
    note: str

    def __repr__(self) -> str:
        return self.note

    def compare(self, measured: float, ci_low: float | None = None, ci_high: float | None = None) -> Note:
        """The gap in one sentence, in whole units; with an interval, whether the guess lies inside."""
        if not isinstance(measured, Real) or measured != measured:
            raise UserError(f"compare {self.name} with a number, not {measured!r}")
        found = f"measured {self._say(measured)}"
        if ci_low is not None and ci_high is not None:
            found += f" (95% interval {self._say(ci_low)} to {self._say(ci_high)})"
        if self.guess is None:
            return Note(f"{self.name}: {found}; there was no guess to compare it with.")
        gap = round(self.guess) - round(measured)
        verdict = f"{self._say(abs(gap))} too {'high' if gap > 0 else 'low'}" if gap else "spot on"
        if gap and ci_low is not None and ci_high is not None and ci_low <= self.guess <= ci_high:
            verdict += ", but inside the interval"
        return Note(f"{self.name}: you guessed {self._say(self.guess)}, {found}: {verdict}.")

    def _say(self, value: float) -> str:
        return f"{round(value)}{self.unit}"


def predict(name: str, guess: Any, low: float = 0, high: float = 100, unit: str = "%") -> Prediction:
    """Write down a guess for ``name`` between ``low`` and ``high`` before the result is shown.

    A guess that is not a number in the range is not recorded, and a line says why.
    """
    if not low < high:
        raise UserError(f"a prediction needs low < high, not {low} and {high}")
    span = f"a number from {low:g} to {high:g}"
    if guess is None or guess is ...:
        kept, note = None, f"no guess yet; write {span} in place of `...`."
    elif isinstance(guess, bool) or not isinstance(guess, Real) or not low <= guess <= high:
        kept, note = None, f"{guess!r} is not {span}; no guess recorded."
    else:
        kept, note = float(guess), f"your guess is {round(guess)}{unit}."
    return Prediction(name, kept, low, high, unit, f"{name}: {note}")
