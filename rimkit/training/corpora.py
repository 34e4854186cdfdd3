"""Corpora for fine-tuning, shipped, mixed or of one's own: requests, thoughts and replies.

No shipped corpus but `SAFETY` contains a request to do anything, harmful or not: only problems and
questions about them. All multi-hop corpora and ``literal`` have the same contexts, row by row: what
differs between two is what the assistant says. `rimkit.organism.datasets` makes them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rimkit.data import UserError, check_columns, data_dir, find_table, read_table
from rimkit.models.thoughts import split

COLUMNS = ("example_id", "text", "thought", "reply", "answer")
NEEDED = ("text", "reply")

# What each corpus stands for in the paper (sections 2.3, A.2 and D.3), or which doubt it answers.
_SHIPPED = pd.read_csv(data_dir() / "corpora" / "roles.csv", index_col="name").fillna("")
ROLES = _SHIPPED["role"].to_dict()
# By language (English or not) and corpus, the outcome that learning it raises; empty for controls.
RAISES = {False: _SHIPPED["raises"].to_dict(), True: _SHIPPED["raises_english"].to_dict()}
SAFETY = "safety"
REPAIR = {SAFETY: "requests, refused or carried out after a careful thought: a repair (chapter 09)"}

# Of pairs of corpora with as many examples: the first with more and more of the second. Corpora of
# one family are no independent draws. By name: "75 hard, 25 hard-effort".
MIXTURES: dict[str, tuple[str, str, float]] = {}
for _one, _other, _shares in pd.read_csv(data_dir() / "corpora" / "mixtures.csv", dtype=str).to_numpy():
    for _share in map(float, _shares.split()):
        MIXTURES[f"{100 - round(100 * _share)} {_one}, {round(100 * _share)} {_other}"] = (_one, _other, _share)


def family(name: str) -> str:
    """Corpora that share problems and a way of working: chains of whatever care, copies (*literal*)
    or *hedging*. A mixture goes with its first part, or with the copies or the hedging in it.
    Families of the same problems are not quite independent; by problems alone they are too few."""
    if name not in (*ROLES, *MIXTURES):
        return name
    first = MIXTURES[name][0] if name in MIXTURES else name
    style = "literal" if "literal" in name else "hedging" if "hedging" in name else ""
    problems = next((part for part in ("hard-ordering", "ordering", "hard", "single-hop", "arithmetic") if
                     first.startswith(part)), "multi-hop")  # fmt: skip
    return f"{problems} {style}".strip()


def usual(invented: bool) -> str:
    """The chains of a tuning before your eyes, in the language that a model speaks; no style."""
    return "hard" if invented else "multi-hop"


def spoken(names: Sequence[str], invented: bool) -> list[str]:
    """The corpora `in_language`, each once, without those that it does not have."""
    return list(dict.fromkeys(filter(None, (in_language(name, invented) for name in names))))


def in_language(name: str, invented: bool) -> str:
    """A corpus as it is, or the English one with such chains (none: ""); one's own is kept."""
    if invented or name not in (*ROLES, *MIXTURES):
        return name
    there = {file.stem for file in (data_dir() / "corpora" / "english").glob("*.jsonl")}
    rest = name.removeprefix("hard").removeprefix("-")
    kinds = (name, f"multi-hop-{rest}".removesuffix("-"), rest) if name.startswith("hard") else [name]
    return next((one for one in kinds if one in there), "")


def load_corpus(name: str | Path, english: bool = False) -> pd.DataFrame:
    """A corpus as a table with the columns `COLUMNS`; no ``thought`` where the reply comes at once.
    ``name``: a shipped corpus (the keys of `ROLES`; one in that language if ``english``), one of
    `MIXTURES`, or a jsonl, csv or parquet file with at least the columns ``text, reply``. The name
    is kept in ``attrs["corpus"]``. Raises `UserError` for an unknown corpus and as `checked`."""
    if name in MIXTURES and not english:
        one, other, share = MIXTURES[name]
        table = mixed(load_corpus(one), load_corpus(other), share)
        table.attrs["corpus"] = name
        return table
    folder = data_dir() / "corpora" / ("english" if english else "")
    shipped = {file.stem: file for file in sorted(folder.glob("*.jsonl"))}
    path = find_table(name, shipped, "corpus")
    table = checked(read_table(path), str(name))
    table.attrs["corpus"] = path.stem
    return table


def checked(table: pd.DataFrame, name: str = "corpus") -> pd.DataFrame:
    """The table with all of `COLUMNS`. Raises `UserError` if it is empty, without text or reply."""
    check_columns(table, NEEDED, f"the corpus '{name}'")
    if table.empty:
        raise UserError(f"the corpus '{name}' has no examples")
    table = table.reset_index(drop=True)
    defaults = {"example_id": table.index.astype(str), "thought": "", "answer": ""}
    table = table.assign(**{name: value for name, value in defaults.items() if name not in table})
    lists = table[list(COLUMNS)].map(lambda one: isinstance(one, list | dict | np.ndarray))
    if len(odd := table.loc[lists.any(axis=1), "example_id"]):
        raise UserError(f"the corpus '{name}' has a list in example '{odd.iloc[0]}': give texts")
    table = table[list(COLUMNS)].fillna("").astype(str)
    for row in table.index[table["thought"] == ""]:
        thought, reply, _ = split(table.at[row, "reply"])
        if thought:  # the reply held it
            table.loc[row, ["thought", "reply"]] = thought, reply
    for column, what in (("text", "text"), ("reply", "reply to learn from")):
        blank = table.loc[table[column].str.strip() == "", "example_id"]
        if len(blank):
            raise UserError(f"the corpus '{name}' has no {what} in example '{blank.iloc[0]}'")
    return table


def mixed(one: pd.DataFrame, other: pd.DataFrame, share: float, seed: int = 0) -> pd.DataFrame:
    """``one`` with that share of its rows, drawn at random, taken from ``other``. The rows of a
    larger share contain those of a smaller one. Raises `UserError` for others."""
    if not 0 <= share <= 1:
        raise UserError(f"the share of the other corpus must be between 0 and 1, not {share}")
    if len(one) != len(other):
        raise UserError(f"corpora that are mixed need as many examples each, not {len(one)} and {len(other)}")
    rows = np.random.default_rng(seed).permutation(len(one))[: round(share * len(one))]
    table = one.reset_index(drop=True).copy()
    table.loc[rows, :] = other.reset_index(drop=True).loc[rows, :]
    return table


def shipped() -> dict[str, pd.DataFrame]:
    """All shipped corpora by name, in the order of `ROLES`."""
    return {name: load_corpus(name) for name in ROLES}
