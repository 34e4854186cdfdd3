"""Exercises and predictions: the messages do the teaching. Knows no chapter.

What a learner writes never raises and never runs for ever: it is answered with one line, *not
attempted*, *wrong* and why, or *right*, so that a notebook runs to its end.
"""

import ctypes
import json
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from functools import partial
from html import escape
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

from rimkit.data import UserError, missing, nearest, number

LEVELS = {"difficulty": "easy medium hard", "importance": "optional useful essential"}
NOT_ATTEMPTED, WRONG, RIGHT = "not attempted", "wrong", "right"
SIGNS = {NOT_ATTEMPTED: "○", WRONG: "✗", RIGHT: "✓"}
SECONDS = 20  # that an answer may take
PATIENCE = 6  # times as long for the whole check, in which a model may have to be loaded
PROGRESS = "rimkit-progress.json"  # in the learner's folder
TRACING = {  # what errors of a trace mean
    "UnboundLocalError": "a list is made before the trace; what leaves a trace is saved inside it with .save()",
    "SyntaxError": "end the block of the trace first, then return",
    "OutOfOrderError": "inside a trace, ask for values in the order in which the model computes them",
    "WithBlockNotFoundError": "define the function in a cell of its own",
}


@dataclass(frozen=True)
class Note:
    """Text for a learner: plain in a terminal, Markdown in a notebook."""

    text: str

    def __repr__(self) -> str:
        return self.text

    _repr_markdown_ = __repr__


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
        return f"<p>{SIGNS[self.status]} <b>{self.status.capitalize()}:</b> {escape(self.message)}</p>"


@dataclass(frozen=True, repr=False)
class Exercise:
    """A task with a check, hints and a solution. ``judge`` takes the answer, a value or a function
    that the learner wrote, and returns True if it is right, else the sentence that says why it is
    wrong. Whatever it raises is said to the learner in one line, with what
    the exercise ``expects`` ("a number between 0 and 1"), and it is stopped after ``seconds``.
    ``code`` is a solution that can be run (it ends with the answer, or defines the function),
    ``given`` what the task hands out. What was solved is remembered by ``name`` (`solved_in`)."""

    title: str
    card: tuple[str, str, int]  # how hard and how important (`LEVELS`), and minutes
    question: str
    judge: Callable[[Any], bool | str]
    hints: tuple[str, ...]
    answer: str
    expects: str = ""
    code: str = ""
    given: Any = None
    seconds: float = SECONDS
    name: str = ""

    difficulty, importance, minutes = (property(lambda self, at=at: self.card[at]) for at in range(3))

    def __post_init__(self):
        for name, known in LEVELS.items():
            if (value := getattr(self, name)) not in (known := known.split()):
                raise UserError(f"{name} is {', '.join(known)}, not '{value}'{nearest(value, known)}")

    def check(self, answer: Any = None) -> Feedback:
        """Not attempted (nothing, ``...``, a function that returns nothing), wrong, or right."""
        if answer is None or answer is ... or (isinstance(answer, str) and not answer.strip("_ ")):
            return self._say(NOT_ATTEMPTED, "put your answer into check(…); hint(1) helps.")
        try:
            allowed.set(self.seconds)
            calls.set([])
            with time_limit(PATIENCE * self.seconds):
                found = self.judge(answer)
        except NotAttempted:
            return self._say(NOT_ATTEMPTED, "the function returns nothing yet; hint(1) helps.")
        except TimeIsUp:
            found = f"it was not done after {self.seconds:g} seconds: does a loop never end?"
        except (Exception, SystemExit) as error:
            found = self._failed(answer, error)
        if isinstance(found, str) or not found:
            return self._say(WRONG, found or "it is not what the question asks for; hint(1) helps.")
        _remember(self.name)
        return Feedback(RIGHT, "well done.")

    def _say(self, status: str, message: str) -> Feedback:
        called, seen = f'rk.exercise("{self.name}").' if self.name else "", _seen.get(self.name, 0)
        said = f"hint({seen + 1}) helps" if seen < len(self.hints) else "solution() shows one way"
        return Feedback(status, message.replace("hint(1) helps", called + said))

    def hint(self, which: int = 1) -> Note:
        """The first hint, or a further one."""
        place = min(max(which, 1), len(self.hints))
        _seen[self.name] = max(place, _seen.get(self.name, 0)) if self.name else 0
        more = f" (hint({place + 1}) says more.)" if place < len(self.hints) else ""
        return Note(f"**Hint {place}.** {self.hints[place - 1]}{more}")

    def solution(self) -> Note:
        """An answer with its reasons; where it is code, code that can be run."""
        code = f"\n\n```python\n{self.code.strip()}\n```" if self.code else ""
        return Note(f"**Solution.** {self.answer}{code}")

    def __repr__(self) -> str:
        levels = f"{self.difficulty}, {self.importance}, about {self.minutes} minutes"
        return f"Exercise {self.name}: {self.title} ({levels})\n{self.question}"

    def _repr_markdown_(self) -> str:
        levels = ""
        for name, known in LEVELS.items():
            level = getattr(self, name)
            full = known.split().index(level) + 1
            levels += f"{name.capitalize()}: {'●' * full}{'○' * (3 - full)} {level}. "
        return f"**Exercise {self.name}: {self.title}**  \n*{levels}About {self.minutes} minutes.*\n\n{self.question}"

    def _failed(self, answer: Any, error: BaseException) -> str:
        """What went wrong while the answer was judged, in one line."""
        expected = f"; this exercise expects {self.expects}" if self.expects else ""
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if not callable(answer):
            return f"your answer (a {type(answer).__name__}) could not be checked: {said}{expected}."
        name, code = getattr(answer, "__name__", "function"), getattr(answer, "__code__", None)
        places = [place.lineno for place in traceback.extract_tb(error.__traceback__) if place.name == name]
        where = f" in line {places[-1] - code.co_firstlineno + 1} of" if places and code else " in"
        meaning = TRACING.get(type(error).__name__, "")
        return f"there was an error{where} {name}: {said}{f'; {meaning}' if meaning else expected}."


def solved_in(folder: str | Path = ".") -> dict[str, str]:
    """The exercises that were solved in a folder, each with the day on which it first was."""
    try:
        return dict(json.loads((Path(folder) / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there yet, or not what was written
        return {}


def _remember(name: str) -> None:
    """In a notebook, and where the folder can be written; nothing depends on it."""
    from IPython import get_ipython

    known = solved_in()
    if name and name not in known and get_ipython():
        with suppress(OSError):
            Path(PROGRESS).write_text(json.dumps(known | {name: f"{date.today()}"}, indent=1) + "\n", encoding="utf-8")


class NotAttempted(Exception):
    """A learner's function that returns nothing yet."""


class TimeIsUp(BaseException):
    """Not an Exception, so that no learner's code catches it by accident."""


allowed: ContextVar[float] = ContextVar("allowed", default=SECONDS)  # to a learner's function
calls: ContextVar[list[tuple]] = ContextVar("calls")  # of it in this check: itself and what it was given
_seen: dict[str, int] = {}  # hints of exercises that were shown


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeIsUp` in this thread after some seconds, unless the block is done."""
    thread, lock, done, raised = threading.get_ident(), threading.Lock(), False, False

    def raise_there() -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeIsUp))

    def stop() -> None:
        nonlocal raised
        with lock:
            if not done:
                raised = True
                raise_there()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            done = True
        with suppress(TimeIsUp):  # one that is still on its way ends here, and not in what follows;
            if raised:  # where one is withdrawn instead, Python 3.11 hangs under a debugger
                raise_there()
                while True:
                    pass
        timer.cancel()


def result_of(function: Callable, *arguments, **named) -> Any:
    """What a learner's function returns in its seconds; raises `NotAttempted` for nothing."""
    calls.get([]).append((function, *arguments, *named.values()))
    with time_limit(allowed.get()):
        found = function(*arguments, **named)
    if found is None or found is ...:
        raise NotAttempted
    return found


@dataclass(frozen=True)
class Prediction:
    """A guess: its lower and upper end, or None; ``note`` says what became of it."""

    name: str
    unit: str
    note: str
    guess: tuple[float, float] | None = None
    digits: int = 0

    def __repr__(self) -> str:
        return self.note

    def compare(
        self, measured: float, ci_low: float | None = None, ci_high: float | None = None, word: str = "measured"
    ) -> Note:
        """The gap in words, in whole units, and the interval; ``word``: how it was found."""
        if missing(measured):  # of a real model that was cut off
            return Note(f"{self.name}: nothing could be measured here.")
        if not isinstance(measured, Real):
            raise UserError(f"compare {self.name} with a number, not {measured!r}")
        if not isfinite(measured):
            return Note(f"{self.name}: what was measured is without bounds, and nothing to compare a guess with.")
        interval = all(not missing(end) and isfinite(end) for end in (ci_low, ci_high))
        told = partial(_in, self.unit, digits=self.digits)
        said = f"{word} {told(measured)}"
        said += f" (95% interval {told(ci_low)} to {told(ci_high)})" if interval else ""
        if self.guess is None:
            return Note(f"{self.name}: {said}; there was no guess to compare it with.")
        low, high, at = (round(end, self.digits) for end in (*self.guess, measured))
        gap = max(0, low - at) or min(0, high - at)
        apart = _in(" points" if self.unit == "%" else self.unit, abs(gap), digits=self.digits)
        verdict = f"{apart} too {'high' if gap > 0 else 'low'}" if gap else "spot on"
        if gap and interval and ci_low <= self.guess[1] and self.guess[0] <= ci_high:
            verdict += ", but inside the interval"
        return Note(f"{self.name}: you guessed {told(low, high)}, {said}: {verdict}.")


def _in(unit: str, *ends: float, digits: int = 0) -> str:
    """A number, or two that differ, with the unit."""
    said = [f"{number(end, digits)}{unit}" for end in ends]
    return " to ".join(dict.fromkeys(text[:-1] if re.match(r"[-−]?1 .*s$", text) else text for text in said))


def predict(name: str, guess: Any, low: float = 0, high: float = 100, unit: str = "%") -> Prediction:
    """Write down a guess for ``name`` from ``low`` to ``high`` before the result is shown: a number,
    a text such as "30%", or two numbers between which it will lie. With percent, 0.3 is taken as
    30%; from -1 to 1 there are two decimals. Anything else is not recorded, and a line says why."""
    made = partial(Prediction, name, unit, digits=2 if (low, high) == (-1, 1) else 0)
    span = f"a number from {low:g} to {high:g}"
    if guess is None or guess is ...:
        return made(f"{name}: no guess yet; write {span} in place of `...`.")
    parts = guess if isinstance(guess, tuple | list) and len(guess) == 2 else (guess, guess)
    ends = [_read_guess(part, unit) for part in parts]
    if any(end is None or not low <= end <= high for end in ends):
        shown = "so long a number"
        with suppress(ValueError):  # of a number with thousands of digits
            shown = repr(guess)[:40]
        return made(f"{name}: {shown} is not {span}; no guess recorded.")
    ends = tuple(sorted(ends))
    return made(f"{name}: your guess is {_in(unit, *ends, digits=made.keywords['digits'])}.", ends)


def _read_guess(guess: Any, unit: str) -> float | None:
    form = r"\s*([-+−]?\d*[.,]?\d+)\s*(%|points?|)\s*"
    found = re.fullmatch(form, guess) if isinstance(guess, str) else None
    if found:
        guess = float(found[1].replace("−", "-").replace(",", "."))
    if isinstance(guess, bool) or not isinstance(guess, Real) or not -1e9 < guess < 1e9:
        return None
    return float(100 * guess if unit == "%" and not (found and found[2]) and 0 < guess < 1 else guess)
