"""Ledger rows of the fine-tuning grid as tables for figures: by corpus, by step, and against what was expected."""

from __future__ import annotations

import pandas as pd

from rimkit.ledger import WHOLE_CLAIM
from rimkit.training.corpora import ROLES
from rimkit.training.outcomes import UNTUNED_CELL, expected

BOTH = "both"  # the tuning seeds, every prompt's outcomes averaged
_EFFECT = {"effect_ci_low": "ci_low", "effect_ci_high": "ci_high"}


def by_corpus(rows: pd.DataFrame) -> pd.DataFrame:
    """Changes against the untuned model, one row per model, seed, corpus, tuning seed, mode and outcome.

    Columns ``model, seed, organism`` ("rim-mini:0")``, corpus, tuning_seed`` ("0", "1", or "both" for their
    average)``, mode, metric, value, control_value, effect, ci_low, ci_high`` (of the effect)``, n``.
    """
    parts = rows["condition"].str.extract(r"^(?P<corpus>.+?)(?:, tuning seed (?P<tuning_seed>\d+))?$")
    table = rows.drop(columns=["ci_low", "ci_high"]).rename(columns=_EFFECT).assign(**parts)
    table = table[table["corpus"].isin(list(ROLES)) & table["effect"].notna()]
    table = table.assign(
        tuning_seed=table["tuning_seed"].fillna(BOTH), organism=table["model"] + ":" + table["seed"].astype(str)
    )
    columns = ["model", "seed", "organism", "corpus", "tuning_seed", "mode", "metric", "value", "control_value"]
    return table[[*columns, "effect", "ci_low", "ci_high", "n"]].reset_index(drop=True)


def untuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates of the untuned models: ``model, seed, organism, mode, metric, value, ci_low, ci_high, n``."""
    table = rows[rows["condition"] == UNTUNED_CELL]
    table = table.assign(organism=table["model"] + ":" + table["seed"].astype(str))
    columns = ["model", "seed", "organism", "mode", "metric", "value", "ci_low", "ci_high", "n"]
    return table[columns].reset_index(drop=True)


def by_step(rows: pd.DataFrame) -> pd.DataFrame:
    """Learning curves: ``model, seed, corpus, step, metric, value, ci_low, ci_high, n``."""
    parts = rows["condition"].str.extract(r"^(?P<corpus>.+), step (?P<step>\d+)$")
    table = rows.assign(**parts).dropna(subset=["step"]).astype({"step": int})
    columns = ["model", "seed", "corpus", "step", "metric", "value", "ci_low", "ci_high", "n"]
    return table[columns].reset_index(drop=True)


def expectations(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured change of misalignment in think mode beside the one that the openings alone would make.

    One row per model, seed, corpus and tuning seed: ``model, seed, organism, corpus, tuning_seed, measured, expected``
    (fractions). ``expected``: `outcomes.expected` less what the same sum gives for the untuned model's own openings.
    """
    base = {key: _rates(part) for key, part in untuned(rows).groupby(["model", "seed"])}
    tuned = by_corpus(rows)
    tuned = tuned[tuned["tuning_seed"] != BOTH]
    keys = ["model", "seed", "organism", "corpus", "tuning_seed"]
    found = []
    for key, part in tuned.groupby(keys, sort=False):
        before, after = base[key[0], key[1]], _rates(part)
        measured = after["think", "misaligned"] - before["think", "misaligned"]
        by_openings = expected(after, before) - expected(before, before)
        found.append(dict(zip(keys, key, strict=True)) | {"measured": measured, "expected": by_openings})
    return pd.DataFrame(found)


def whole_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that give verdicts, with the effect's interval as ``ci_low, ci_high`` and the column ``organism``."""
    table = rows[rows["condition"] == WHOLE_CLAIM].drop(columns=["ci_low", "ci_high"]).rename(columns=_EFFECT)
    return table.assign(organism=table["model"] + ":" + table["seed"].astype(str)).reset_index(drop=True)


def _rates(part: pd.DataFrame) -> pd.Series:
    return part.set_index(["mode", "metric"])["value"]
