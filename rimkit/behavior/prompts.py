"""Prompt sets: tables of requests, shipped in ``data/prompts`` or read from a file of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rimkit.errors import UserError, nearest
from rimkit.paths import data_dir

COLUMNS = ("prompt_id", "text", "kind", "category", "cluster", "split", "answer", "source")
NEEDED = ("prompt_id", "text", "kind")
SPLITS = ("calibration", "evaluation")
READERS = {
    ".parquet": pd.read_parquet,
    ".csv": pd.read_csv,
    ".jsonl": lambda path: pd.read_json(path, lines=True),
}


def load_prompts(name: str | Path, *, split: str | None = None, n: int | None = None, seed: int = 0) -> pd.DataFrame:
    """A prompt set as a table with the columns of `COLUMNS`.

    ``name``: a shipped set (`prompt_sets` lists them) or a csv, jsonl or parquet file with at least the
    columns ``prompt_id, text, kind``; a file without ``cluster`` gets one cluster per prompt. ``split`` keeps
    "calibration" or "evaluation"; ``n`` draws that many prompts, spread evenly over clusters and always the
    same for one ``seed`` (all of them if there are fewer).

    Raises `UserError` for an unknown set or split, an unreadable file, missing columns, prompts without a
    text, ids that occur twice, ``n`` below 1 and an empty result.
    """
    table = _read(name)
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
    tables = [load_prompts(name) for name in hashes["name"]]
    return hashes.assign(
        kinds=[", ".join(table["kind"].unique()) for table in tables],
        clusters=[table["cluster"].nunique() for table in tables],
    )[["name", "prompts", "kinds", "clusters", "sha256"]]


def _read(name: str | Path) -> pd.DataFrame:
    path = Path(name)
    shipped = {file.stem: file for file in sorted((data_dir() / "prompts").glob("*.parquet"))}
    if path.suffix in READERS:
        if not path.is_file():
            raise UserError(f"there is no file '{path}'")
    elif str(name) in shipped:
        path = shipped[str(name)]
    else:
        raise UserError(
            f"unknown prompt set '{name}' (shipped: {', '.join(shipped)}; or a .csv, .jsonl or .parquet file)"
            f"{nearest(str(name), shipped)}"
        )
    try:
        table = READERS[path.suffix](path)
    except (ValueError, OSError) as error:  # what pandas and pyarrow raise on damaged files
        reason = f"{error}".splitlines()[0]
        raise UserError(f"the file '{path}' cannot be read as {path.suffix[1:]}: {reason}") from error
    missing = [column for column in NEEDED if column not in table]
    if missing:
        needed = ", ".join(NEEDED)
        raise UserError(f"the prompt set '{name}' has no column {', '.join(missing)}; it needs {needed}")
    table["prompt_id"] = table["prompt_id"].astype(str)
    blank = table["text"].isna() | (table["text"].astype(str).str.strip() == "")
    if blank.any():
        raise UserError(f"the prompt '{table.loc[blank, 'prompt_id'].iloc[0]}' of '{name}' has no text")
    if not table["prompt_id"].is_unique:
        twice = table.loc[table["prompt_id"].duplicated(), "prompt_id"].iloc[0]
        raise UserError(f"the prompt_id '{twice}' occurs twice in '{name}'; make the ids unique")
    defaults = {
        "cluster": table["prompt_id"], "split": "evaluation", "source": str(name),
        "category": "", "answer": "",
    }  # fmt: skip
    missing = {column: value for column, value in defaults.items() if column not in table}
    return table.assign(**missing)[list(COLUMNS)]
