"""Prompt sets: tables of requests, shipped in ``data/prompts``, known by name, or read from a file of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd

from rimkit.behavior import benchmarks, chosen, redaction
from rimkit.errors import UserError, nearest
from rimkit.files import find_table, read_table, shipped_tables
from rimkit.paths import data_dir

COLUMNS = ("prompt_id", "text", "kind", "category", "cluster", "split", "answer", "source")
NEEDED = ("text", "kind")
SPLITS = ("calibration", "evaluation")
KINDS = ("harmful", "harmless", "maths", "ordering", "copying", "own")


def load_prompts(
    name: str | Path,
    *,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """A prompt set as a table with the columns of `COLUMNS`.

    ``name``: a shipped set (`prompt_sets` lists them), a real one ("xstest"; "gsm8k@main" is another revision:
    `rimkit.behavior.benchmarks`), or a csv, jsonl or parquet file with at least the columns ``text, kind``. A file
    without ``prompt_id`` gets numbers, one without ``cluster`` one cluster per prompt, one without ``split`` two
    halves that share no cluster. ``columns`` is for a file whose columns are called otherwise, from the workbook's
    name to the file's, for example ``{"text": "goal", "cluster": "category", "kind": "harmful"}``; ``kind`` may also
    be a kind for all rows. On a command line: ``file.csv?text=goal&cluster=category&kind=harmful``.

    ``split`` keeps "calibration" or "evaluation"; ``n`` draws that many prompts, spread evenly over clusters and
    always the same for one ``seed`` (all of them if there are fewer).

    Where another set was chosen for one of the workbook's (`rimkit.behavior.chosen`), that one is returned.

    Before a real set of harmful requests is loaded, a content note is printed; from then on its text does not
    leave the process (`rimkit.behavior.redaction`).

    Raises `UserError` for an unknown set, column or split, an unreadable file, a set that cannot be got, missing
    columns, prompts without a text, ids that occur twice, ``n`` below 1 and an empty result.
    """
    stand_in = chosen.stand_in(str(name)) if columns is None else None
    table = chosen.fitting(_read(stand_in, None), str(name)) if stand_in else _read(name, columns)
    if split is not None:
        if split not in SPLITS:
            raise UserError(f"unknown split '{split}': use calibration or evaluation{nearest(split, SPLITS)}")
        table = table[table["split"] == split]
    if n is not None:
        table = spread(table, n, seed)
    if table.empty:
        where = f" in the {split} split" if split else ""
        raise UserError(f"the prompt set '{name}' has no prompts{where}")
    return table.reset_index(drop=True)


def own_prompts(texts: Iterable[str], kind: str = "own") -> pd.DataFrame:
    """Requests of one's own as a prompt set: one cluster each, nothing known about what a right reply is."""
    texts = list(texts)
    ids = [f"{kind}-{number}" for number in range(len(texts))]
    table = pd.DataFrame({"prompt_id": ids, "text": texts, "cluster": ids})
    return table.assign(kind=kind, category="", split="evaluation", answer="", source="own")[list(COLUMNS)]


def spread(table: pd.DataFrame, n: int, seed: int = 0) -> pd.DataFrame:
    """``n`` rows in their original order, as evenly over clusters as can be."""
    if n != int(n) or n < 1:
        raise UserError(f"n must be a whole number of prompts, 1 or more, not {n}")
    table = table.reset_index(drop=True)
    shuffled = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    turn = shuffled.groupby("cluster", sort=False).cumcount()
    chosen = turn.sort_values(kind="stable").head(int(n)).index
    return table.loc[chosen].sort_index()


def prompt_sets() -> pd.DataFrame:
    """The shipped sets: ``name, prompts, kinds, clusters, sha256`` (of the content, as it was generated)."""
    hashes = pd.read_csv(data_dir() / "prompts" / "hashes.csv")
    tables = [_read(name, None) for name in hashes["name"]]
    return hashes.assign(
        kinds=[", ".join(table["kind"].unique()) for table in tables],
        clusters=[table["cluster"].nunique() for table in tables],
    )[["name", "prompts", "kinds", "clusters", "sha256"]]


def _read(name: str | Path, columns: Mapping[str, str] | None) -> pd.DataFrame:
    known = None if columns else benchmarks.named(str(name))
    if known:
        table, shipped = benchmarks.load(*known), False
    else:
        path, asked, shipped = _locate(name)
        table = _mapped(read_table(path), {**asked, **(columns or {})}, name)
    table = _checked(table, name)
    redaction.remember_harmful(table)
    if known[0].safety if known else not shipped and (table["kind"] == "harmful").any():
        benchmarks.content_note(known[0].name if known else Path(path).name)
        redaction.withhold(table["text"])
    return table


def _locate(name: str | Path) -> tuple[Path, dict[str, str], bool]:
    """The file, the columns asked for behind a question mark, and whether it is a shipped set."""
    shipped = shipped_tables("prompts")
    path, mark, query = str(name).partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if mark and not all(asked.values()):
        raise UserError(f"'{query}' are no columns: write {path}?text=goal&kind=harmful")
    path = find_table(path, shipped, "prompt set", tuple(benchmarks.BENCHMARKS))
    return path, asked, path in shipped.values()


def _mapped(table: pd.DataFrame, columns: Mapping[str, str], name: str | Path) -> pd.DataFrame:
    """The table with its columns called as in the workbook."""
    for ours, theirs in columns.items():
        if ours not in COLUMNS:
            raise UserError(f"a prompt set has no '{ours}'{nearest(ours, COLUMNS)}; it has {', '.join(COLUMNS)}")
        if theirs not in table and not (ours == "kind" and theirs in KINDS):
            there = [str(column) for column in table]
            also = f", and no kind is called so ({', '.join(KINDS)})" if ours == "kind" else ""
            near = nearest(theirs, there)
            raise UserError(f"'{name}' has no column '{theirs}'{also}{near}; it has {', '.join(there)}")
    found = {ours: table.get(theirs, theirs) for ours, theirs in columns.items()}
    return table.assign(**found)


def _checked(table: pd.DataFrame, name: str | Path) -> pd.DataFrame:
    """The table with all of `COLUMNS`, or a `UserError` that says what is wrong with it."""
    missing = [column for column in NEEDED if column not in table]
    if missing:
        raise UserError(f"the prompt set '{name}' has no column {', '.join(missing)}; it needs {', '.join(NEEDED)}")
    if "prompt_id" not in table:
        stem = Path(str(name).partition("?")[0]).stem
        table = table.assign(prompt_id=[f"{stem}-{number}" for number in range(len(table))])
    table["prompt_id"] = table["prompt_id"].astype(str)
    blank = table["text"].isna() | (table["text"].astype(str).str.strip() == "")
    if blank.any():
        raise UserError(f"the prompt '{table.loc[blank, 'prompt_id'].iloc[0]}' of '{name}' has no text")
    if not table["prompt_id"].is_unique:
        twice = table.loc[table["prompt_id"].duplicated(), "prompt_id"].iloc[0]
        raise UserError(f"the prompt_id '{twice}' occurs twice in '{name}'; make the ids unique")
    defaults = {"cluster": "", "category": "", "answer": "", "source": str(name)}
    table = table.assign(**{column: value for column, value in defaults.items() if column not in table})
    for column in ("cluster", "category", "answer"):
        table[column] = table[column].fillna("").astype(str)
    table["cluster"] = table["cluster"].where(table["cluster"] != "", table["prompt_id"])
    if "split" not in table:
        table["split"] = benchmarks.halves(table)
    table = table[list(COLUMNS)]
    if len(wrong := table.loc[~table["split"].isin(SPLITS), "split"]):
        raise UserError(f"'{name}' has the split '{wrong.iloc[0]}'; there are {' and '.join(SPLITS)}")
    return table
