"""The exercises of the chapters: every check explains what is wrong, and a test holds each to its solution."""

from __future__ import annotations

from rimkit.data import UserError, nearest
from rimkit.teaching.exercises import Exercise
from rimkit.teaching.questions import mechanism, observing, planning, reading

EXERCISES: dict[str, Exercise] = {
    **observing.EXERCISES,
    **mechanism.EXERCISES,
    **reading.EXERCISES,
    **planning.EXERCISES,
}


def exercise(chapter: str) -> Exercise:
    """The exercise of a chapter, "00", "01", … (chapter 08 has three: "08 misprint", "08 bet", "08 design"); raises `UserError` for a chapter without one."""
    if chapter not in EXERCISES:
        raise UserError(f"chapter '{chapter}' has no exercise{nearest(chapter, EXERCISES)}")
    return EXERCISES[chapter]
