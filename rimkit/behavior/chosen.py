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
from hashlib import sha256
from pathlib import Path

import pandas as pd

from rimkit.behavior import prompts
from rimkit.behavior.judges import find_judge
from rimkit.data import UserError, find_table, nearest, shipped_tables
from rimkit.models.hub import locate

PROMPTS, JUDGE, LENGTH = "RIMKIT_PROMPTS", "RIMKIT_JUDGE", "RIMKIT_MAX_NEW_TOKENS"
USUAL = 96  # tokens of a reply: enough for the embedded models, thought included
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
    the prompts of a fitting kind are used. ``judge`` is a name that `find_judge` knows. ``max_new_tokens``: see
    `reply_tokens`. Raises `UserError` for an unknown set or judge, and for a file or folder that is not there.
    """
    os.environ.update(settings(prompts or {}, judge, max_new_tokens))


def settings(prompts: Mapping[str, str], judge: str, max_new_tokens: int = 0) -> dict[str, str]:
    """The choice as environment variables, files and folders as absolute paths; raises `UserError` as `use`."""
    for name in prompts:
        if name not in KINDS:
            raise UserError(f"no chapter asks for the prompt set '{name}'{nearest(name, KINDS)} ({', '.join(KINDS)})")
    found = {name: _stand_in(name, other) for name, other in sorted(prompts.items())}
    length = str(max_new_tokens) if max_new_tokens else ""
    return {PROMPTS: json.dumps(found) if found else "", JUDGE: _judge(judge), LENGTH: length}


def description(settings: Mapping[str, str]) -> dict[str, str | int | None]:
    """A choice for ledger rows, files and folders by name: ``prompts`` ("harmful=hex-phi"), ``judge``, tokens."""
    prompts = _read(settings.get(PROMPTS, ""))
    names = [f"{name}={Path(other.partition('?')[0]).name}" for name, other in prompts.items()]
    judge = settings.get(JUDGE, "")
    judge = judge if not judge.startswith("guard:") else f"guard:{Path(judge.removeprefix('guard:')).name}"
    return {"prompts": ", ".join(names) or None, "judge": judge or None, "max_new_tokens": _length(settings) or None}


def contents(settings: Mapping[str, str]) -> list[str]:
    """Hashes of the files in a choice: the same names with other prompts in them are another choice."""
    paths = [Path(other.partition("?")[0]) for other in _read(settings.get(PROMPTS, "")).values()]
    return [sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()]


def stand_in(name: str) -> str | None:
    """What was chosen in the place of one of the workbook's sets."""
    return _read(os.environ.get(PROMPTS, "")).get(name)


def judge() -> str | None:
    """The judge that was chosen."""
    return os.environ.get(JUDGE) or None


def reply_tokens(asked: int | None, invented: bool, thinking: bool) -> int:
    """How many tokens a reply may have; ``asked`` is what the code asks for (None: `USUAL`).

    A choice gives a model of one's own more, where it writes a thought (``thinking``) or the code sets no limit of its
    own. The embedded models keep to what is asked.
    """
    room = 0 if invented or not (thinking or asked is None) else _length(os.environ)
    return max(USUAL if asked is None else asked, room)


def fitting(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The prompts of a stand-in that are of a kind which the workbook's set holds; `UserError` if there are none.

    Ids begin with the workbook's name, since one set may stand in for several.
    """
    kept = table[table["kind"].isin(KINDS[name])].reset_index(drop=True)
    if kept.empty:
        there = ", ".join(sorted(table["kind"].unique()))
        raise UserError(f"'{stand_in(name)}' cannot stand in for '{name}': it holds {there} prompts")
    return kept.assign(prompt_id=f"{name}: " + kept["prompt_id"])


def _stand_in(name: str, other: str) -> str:
    """A set that there is, its file wherever it is read from: chapters run in a folder of their own."""
    if prompts.named(other):
        return other
    path, mark, query = other.partition("?")
    shipped = shipped_tables("prompts")
    if not path:
        raise UserError(f"nothing stands in for '{name}': write {name}=hex-phi, or a file")
    file = find_table(Path(path).expanduser(), shipped, "prompt set", tuple(prompts.BENCHMARKS))
    return other if path in shipped else f"{file.resolve()}{mark}{query}"


def _judge(name: str) -> str:
    """A judge that there is, the folder of a guard as an absolute path."""
    if name:
        find_judge(name)
    kind, colon, source = name.partition(":")
    if kind != "guard" or not colon:
        return name
    place = locate(source).source
    return f"guard:{Path(place).resolve()}" if Path(place).is_dir() else name


def _length(settings: Mapping[str, str]) -> int:
    text = settings.get(LENGTH) or "0"
    if not text.isdigit():
        raise UserError(f"{LENGTH} takes a whole number of tokens, not '{text}'")
    return int(text)


@lru_cache(maxsize=4)
def _read(text: str) -> dict[str, str]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict) or not set(found) <= set(KINDS):
        raise UserError(f'{PROMPTS} is not a choice of prompt sets: write {{"harmful": "hex-phi"}}')
    return found
