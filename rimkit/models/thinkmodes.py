"""How a model thinks: by a switch of its chat template, because the template opens the thought, or by instruction.

A chat template is code from elsewhere, so its think mode is found by asking it: both settings of the switch are
rendered and compared. Templates know the switch as ``enable_thinking`` (Qwen3 and most others) or ``thinking``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from rimkit.errors import UserError, nearest

THINK, END_THINK = "<think>", "</think>"
# The ways of thinking, as `ChatFormat.thinking` names them.
SWITCH, OPENS, SOFT, INSTRUCTION, NONE = "switch", "template opens", "soft switch", "by instruction", "none"
ASKED = (True, False, "instruct", "soft")  # what `load(think=…)` takes

HARMONY = "<|channel|>"
NO_THINK = " /no_think"
INSTRUCT = (
    f"\n\nThink step by step before you answer: first write your thoughts between {THINK} and {END_THINK}, "
    "then write your answer."
)
STEP_BY_STEP = "Let me think step by step."

NOTES = {
    OPENS: "its template opens every thought; in no-think mode rimkit closes it at once (an empty think span)",
    SOFT: f"in no-think mode the request ends in '{NO_THINK.strip()}' and the model writes the empty think span itself",
    INSTRUCTION: "it has no think mode: it thinks by instruction, between tags, after 'Let me think step by step.'; "
    "its no-think prompt is the plain one",
}


def check_asked(think: object) -> None:
    """Raise a ``UserError`` unless ``think`` is one of `ASKED`."""
    if think not in ASKED:
        known = [word for word in ASKED if isinstance(word, str)]
        raise UserError(f"unknown think={think!r}: use True, False, 'instruct' or 'soft'{nearest(str(think), known)}")


def added(way: str, mode: str) -> str:
    """What a way of thinking adds to the request in the user's turn."""
    if way == INSTRUCTION and mode == "think":
        return INSTRUCT
    return NO_THINK if way == SOFT and mode == "no-think" else ""


def opening(way: str, mode: str) -> str:
    """How a thought begins that is not forced otherwise."""
    return STEP_BY_STEP if way == INSTRUCTION and mode == "think" else ""


def is_on(way: str, mode: str) -> bool:
    """How the template's switch is set; a soft switch and an instruction leave it alone."""
    return mode == "think" if way not in (SOFT, INSTRUCTION) else way == SOFT


def closed(text: str) -> str:
    """A prompt that ends in an open thought, with the thought closed at once: Qwen3's empty think span."""
    return f"{text.rstrip()}\n\n{END_THINK}\n\n"


def opens_thought(text: str) -> bool:
    """Whether a prompt ends inside a thought that holds nothing yet."""
    return text.rstrip().endswith(THINK)


def refuse_channels(prompt: str) -> None:
    """Raise a ``UserError`` for a prompt in the harmony format, whose thoughts are channels and not a think span."""
    if HARMONY in prompt:
        raise UserError(
            f"the chat template speaks in harmony channels ({HARMONY}analysis), which have no think span: "
            f"use a model that thinks between {THINK} and {END_THINK}, or one without a think mode"
        )


def way_of(on: tuple[str, str], off: tuple[str, str]) -> tuple[str, str]:
    """``(way, reason)`` of a template, from what it writes before and after a request with the switch on and off.

    The way is `SWITCH`, `OPENS` or `NONE`; the reason says why there is none.
    """
    if on == off:
        if opens_thought(on[1]):
            return OPENS, ""
        return NONE, "its chat template builds the same prompt with enable_thinking on and off"
    if THINK in on[1] or THINK in off[1]:
        return SWITCH, ""
    return NONE, f"its chat template has a switch but yields no think span: no {THINK} in either of its prompts"


def chosen(own: str, think: bool | str) -> str:
    """The way of thinking that is used, given the template's own and what was asked for.

    Raises ``UserError`` for an instruction to a model that has a think mode, and a soft switch to one that has none.
    """
    if think == "instruct":
        if own != NONE:
            raise UserError(f"the model has a think mode of its own ({own}): leave 'instruct' out")
        return INSTRUCTION
    if think == "soft":
        if own != SWITCH:
            raise UserError("a soft switch (/no_think) needs a model whose template has enable_thinking, as Qwen3's")
        return SOFT
    return own


def find_tag(ids: Sequence[int], begin: int, tag: str, token: int | None, decode: Callable) -> tuple[int, int] | None:
    """The first tokens from ``begin`` on that write ``tag``, as a half-open range; None if it is not there.

    A tag that is one ``token`` is found by its id; any other by its text, because what a model writes may split it in
    more than one way. Its outermost tokens may also hold a neighbouring character (``>`` with a line break).
    """
    if token is not None:
        place = next((i for i in range(begin, len(ids)) if ids[i] == token), None)
        return None if place is None else (place, place + 1)
    if tag not in decode(ids[begin:]):
        return None
    end = bisect_left(range(len(ids)), True, lo=begin, key=lambda i: tag in decode(ids[begin : i + 1])) + 1
    start = bisect_left(range(end), True, lo=begin, key=lambda i: tag not in decode(ids[i + 1 : end]))
    return start, end


def split(text: str) -> tuple[str, str]:
    """``(thought, reply)`` of a text that begins with a thought; the reply is empty if the thought is not closed."""
    thought, _, reply = text.partition(THINK)[2].partition(END_THINK)
    return thought.strip(), reply.strip()
