"""Whether the numbers of an answer are right, and else what is wrong with them, with one input that was tried."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rimkit.data import number
from rimkit.teaching.exercises import calls

MOST = 100_000  # numbers in an answer
SHOWN, LETTERS = 8, 60  # numbers of an array, and letters of a text, that a message shows


def compare(found: Any, right: Any, mistakes: Mapping[str, Any] = {}, tolerance: float = 1e-3) -> bool | str:
    """Whether numbers are right (relative ``tolerance``), else what is wrong with them.

    ``right`` is a number or an array; ``mistakes`` maps what to say to the numbers that such a mistake gives, or to a
    function that computes them. Kind, shape and sign are looked at. If nothing else is known, what a function gave for
    one input stands beside what it should give; of a number that was typed in, only how far it is off.
    """
    right = np.asarray(right, dtype=float)
    wanted = f"numbers of shape {right.shape}" if right.ndim else "a number"
    try:
        found = found.detach().cpu().float().numpy() if hasattr(found, "detach") else found
        if np.size(found) > MOST:
            return f"it is {number(np.size(found), 0)} numbers where {wanted} should be."
        numbers = np.asarray(found, dtype=float)
    except (TypeError, ValueError):
        return f"it is a {type(found).__name__}, and it should be {wanted}."
    if numbers.shape != right.shape and not numbers.size == right.size == 1:
        return f"its shape is {numbers.shape}, and it should be {wanted}."
    numbers = numbers.reshape(right.shape)
    if not np.isfinite(numbers).all():
        return "it holds a number that is missing or infinite (a division by zero?)."
    scale = float(np.abs(right).max()) or 1.0

    def near(other: Any) -> bool:
        other = np.asarray(other() if callable(other) else other, dtype=float)
        return other.shape == right.shape and np.allclose(numbers, other, tolerance, tolerance * scale)

    if near(right):
        return True
    shared = {"the sign is turned around.": -right}
    for size, factor in (("large", 100), ("small", 0.01)):
        shared[f"it is a hundred times too {size}: percent or fractions?"] = factor * right
    fitting = (message for message, wrong in {**mistakes, **shared}.items() if near(wrong))
    return next(fitting, None) or f"the numbers are not right: {_off(numbers, right)}; hint(1) helps."


def _off(numbers: np.ndarray, right: np.ndarray) -> str:
    """What came out and what should have, for one input; without an input, too large or too small."""
    tried, place = calls.get([]), int(np.abs(numbers - right).argmax())
    if not tried:
        return _too(float(numbers.ravel()[place]), float(right.ravel()[place]))
    which, gave, should = "", numbers, right
    if len(tried) > 1 or right.size > SHOWN:
        gave, should = numbers.ravel()[place], right.ravel()[place]
        which = f" (number {place + 1} of {right.size})" if right.size > 1 and len(tried) != right.size else ""
    if len(tried) in (1, right.size):
        function, *given = tried[place if len(tried) > 1 else 0]
        called = f"{getattr(function, '__name__', '').replace('<lambda>', '')}({', '.join(map(_shown, given))})"
        return f"{called} gives {_shown(gave)}{which} and should give {_shown(should)}"
    return f"one result is {_shown(gave)} and should be {_shown(should)}"


def _too(found: float, right: float) -> str:
    size = "large" if found > right else "small"
    larger, smaller = sorted(map(abs, (found, right)), reverse=True)
    if found * right <= 0 or larger > 100 * smaller:
        return f"it is far too {size}" if found * right > 0 else f"it is too {size}"
    times = larger / smaller
    return f"it is too {size}" + (f", by a factor of about {times:.1g}" if times > 1.5 else ", but not by much")


def _shown(value: Any) -> str:
    """A value as a message shows it: whole if it is short, else what it is."""
    if isinstance(value, str):
        return repr(value if len(value) <= LETTERS else f"{value[:LETTERS]}…")
    if isinstance(value, bool | np.bool_ | int | None):
        return str(value)
    if hasattr(value, "columns"):
        return f"a table of {len(value)} rows"
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        texts = [f"{one:.4g}" for one in array.astype(float).ravel()]
    except (TypeError, ValueError):
        plain = isinstance(value, list | tuple | dict) and len(repr(value)) <= LETTERS
        return repr(value) if plain else f"a {type(value).__name__}"
    if array.ndim == 0:
        return texts[0]
    return f"[{', '.join(texts)}]" if array.size <= SHOWN and array.ndim == 1 else f"an array of shape {array.shape}"
