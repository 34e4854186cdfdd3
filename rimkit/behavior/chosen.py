"""Prompt sets, a judge and room for long replies, chosen for everything that a process or a run does.

A chapter asks for "harmful" or "maths", and for verdicts, and does not say whose. ``rimkit run --prompts
harmful=hex-phi --judge guard:FOLDER`` says it for a run, `use` for a notebook. ``--max-new-tokens`` gives a model that
thinks at length the room that it needs: chapters allow what the embedded models need. The choice is kept in the
environment, so that it reaches the kernels of a run; every run says its own, and no other one applies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import pandas as pd

from rimkit.behavior.judges import find_judge
from rimkit.errors import UserError, nearest

PROMPTS, JUDGE, LENGTH = "RIMKIT_PROMPTS", "RIMKIT_JUDGE", "RIMKIT_MAX_NEW_TOKENS"
# The workbook's sets that another can stand in for, and the kinds of prompts that each may hold.
KINDS = {
    "harmful": ("harmful",),
    "harmful-seen": ("harmful",),
    "second-safety": ("harmful", "harmless"),
    "harmless": ("harmless",),
    "over-refusal": ("harmless",),
    "maths": ("maths",),
    "ordering": ("ordering", "maths"),
}


def use(prompts: Mapping[str, str] | None = None, judge: str = "", max_new_tokens: int = 0) -> None:
    """From now on, other prompt sets and another judge than the workbook's own; ``use()`` takes that back.

    ``prompts`` maps a set of the workbook (`KINDS`) to what stands in for it: whatever `load_prompts` takes, of which
    the prompts of a fitting kind are used. ``judge`` is a name that `find_judge` knows. No reply of a model of
    one's own is cut off before ``max_new_tokens``. Raises `UserError` for an unknown set or judge.
    """
    os.environ.update(settings(prompts or {}, judge, max_new_tokens))


def settings(prompts: Mapping[str, str], judge: str, max_new_tokens: int = 0) -> dict[str, str]:
    """The choice as environment variables, files as absolute paths; raises `UserError` as `use`."""
    for name in prompts:
        if name not in KINDS:
            raise UserError(f"no chapter asks for the prompt set '{name}'{nearest(name, KINDS)} ({', '.join(KINDS)})")
    if judge:
        find_judge(judge)
    found = {name: _absolute(stand_in) for name, stand_in in sorted(prompts.items())}
    length = str(max_new_tokens) if max_new_tokens else ""
    return {PROMPTS: json.dumps(found) if found else "", JUDGE: judge, LENGTH: length}


def description(settings: Mapping[str, str]) -> dict[str, str | None]:
    """A choice for ledger rows: ``prompts`` ("harmful=hex-phi, maths=gsm8k"; files by name) and ``judge``."""
    chosen = _read(settings.get(PROMPTS, ""))
    names = [f"{name}={Path(stand_in.partition('?')[0]).name}" for name, stand_in in chosen.items()]
    return {"prompts": ", ".join(names) or None, "judge": settings.get(JUDGE) or None}


def stand_in(name: str) -> str | None:
    """What was chosen in the place of one of the workbook's sets."""
    return _prompts().get(name)


def judge() -> str | None:
    """The judge that was chosen."""
    return os.environ.get(JUDGE) or None


def reply_tokens(asked: int, invented: bool) -> int:
    """How many tokens a reply may have where code asked for ``asked``; the embedded models keep to that."""
    return asked if invented else max(asked, int(os.environ.get(LENGTH) or 0))


def fitting(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The prompts of a stand-in that are of a kind which the workbook's set holds; `UserError` if there are none."""
    kept = table[table["kind"].isin(KINDS[name])]
    if kept.empty:
        there = ", ".join(sorted(table["kind"].unique()))
        raise UserError(f"'{stand_in(name)}' cannot stand in for '{name}': it holds {there} prompts")
    return kept.reset_index(drop=True)


def _prompts() -> dict[str, str]:
    return _read(os.environ.get(PROMPTS, ""))


@lru_cache(maxsize=4)
def _read(text: str) -> dict[str, str]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict) or not set(found) <= set(KINDS):
        raise UserError(f'{PROMPTS} is not a choice of prompt sets: write {{"harmful": "hex-phi"}}')
    return found


def _absolute(stand_in: str) -> str:
    """A file wherever it is read from: chapters run in a folder of their own."""
    path, mark, query = stand_in.partition("?")
    return f"{Path(path).expanduser().resolve()}{mark}{query}" if Path(path).expanduser().is_file() else stand_in
