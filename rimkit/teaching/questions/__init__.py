"""The exercises of the chapters, a file each: every check explains what is wrong, and tests hold it to that."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from rimkit.data import UserError, nearest
from rimkit.teaching.exercises import Exercise

CHAPTERS = tuple(sorted(file.stem.removeprefix("chapter_") for file in Path(__file__).parent.glob("chapter_*.py")))


def exercises(chapter: str) -> dict[str, Exercise]:
    """The exercises of a chapter ("04") by name: "04.1", "04.2", …; raises `UserError` for an unknown chapter."""
    if chapter not in CHAPTERS:
        raise UserError(f"there are no exercises for '{chapter}' (chapters: {', '.join(CHAPTERS)})")
    return import_module(f"rimkit.teaching.questions.chapter_{chapter}").EXERCISES


def exercise(name: str) -> Exercise:
    """The exercise "04.2"; the name of a chapter alone means its first. Raises `UserError` for an unknown name."""
    found = exercises(name[:2])
    if name not in found and name not in CHAPTERS:
        raise UserError(f"there is no exercise '{name}' (chapter {name[:2]}: {', '.join(found)}){nearest(name, found)}")
    return found.get(name) or next(iter(found.values()))
