"""The exercises of the chapters, a file each: every check explains what is wrong, and tests hold it to that."""

import ast
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path

import pandas as pd

from rimkit.data import UserError, nearest
from rimkit.teaching.exercises import Exercise, solved_in

CHAPTERS = tuple(sorted(file.stem.removeprefix("chapter_") for file in Path(__file__).parent.glob("chapter_*.py")))


@cache
def exercises(chapter: str) -> dict[str, Exercise]:
    """The exercises of a chapter ("04") by name: "04.1", "04.2", …; raises `UserError` for an unknown chapter."""
    if chapter not in CHAPTERS:
        raise UserError(f"there are no exercises for '{chapter}' (chapters: {', '.join(CHAPTERS)})")
    found = import_module(f"rimkit.teaching.questions.chapter_{chapter}").EXERCISES
    return {name: replace(task, name=name) for name, task in found.items()}


def exercise(name: str) -> Exercise:
    """The exercise "04.2"; the name of a chapter alone means its first. Raises `UserError` for an unknown name."""
    found = exercises(name[:2])
    if name not in found and name not in CHAPTERS:
        raise UserError(f"there is no exercise '{name}' (chapter {name[:2]}: {', '.join(found)}){nearest(name, found)}")
    return found.get(name) or next(iter(found.values()))


def progress(folder: str | Path = ".") -> pd.DataFrame:
    """Every exercise by name: ``title, difficulty, importance, minutes, solved``.

    ``solved`` is the day on which it first was in this folder, empty if it is not yet.
    """
    days = solved_in(folder)
    tasks = [task for chapter in CHAPTERS for task in exercises(chapter).values()]
    columns = ["name", "title", "difficulty", "importance", "minutes"]
    table = pd.DataFrame([[getattr(task, column) for column in columns] for task in tasks], columns=columns)
    table["solved"] = [days.get(task.name, "") for task in tasks]
    return table.rename(columns={"name": "exercise"}).set_index("exercise")


def solved(cells: Sequence[str]) -> list[str]:
    """The code cells of a chapter with solutions in the place of what a learner starts from.

    A call ``….check(mine)`` belongs to the last ``rk.exercise("04.2")`` before it; what it checks is made by the
    last ``mine = None`` or ``def mine(…)`` before it, which the exercise's ``code`` replaces.
    """
    done, name = list(cells), ""
    for place, cell in enumerate(cells):
        calls = [node for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Call) and node.args]
        for call in sorted(calls, key=lambda node: (node.lineno, node.end_col_offset)):
            called = ast.unparse(call.func)
            if called == "rk.exercise":
                name = ast.literal_eval(call.args[0])
            elif called.endswith(".check") and isinstance(call.args[0], ast.Name):
                _solve(done, place, call.args[0].id, exercise(name).code)
    return done


def _solve(cells: list[str], place: int, answer: str, code: str) -> None:
    for number in range(place, -1, -1):
        for node in reversed(ast.parse(cells[number]).body):
            targets = [target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)]
            if answer in (*targets, getattr(node, "name", "")):
                lines = cells[number].splitlines()
                lines[node.lineno - 1 : node.end_lineno] = _named(code, answer).splitlines()
                cells[number] = "\n".join(lines)
                return


def _named(code: str, answer: str) -> str:
    """The solution, its last expression under a name."""
    lines, last = code.strip().splitlines(), ast.parse(code.strip()).body[-1]
    if isinstance(last, ast.Expr):
        lines[last.lineno - 1] = f"{answer} = {lines[last.lineno - 1]}"
    return "\n".join(lines)
