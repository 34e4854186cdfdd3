"""Ledger rows of the fine-tuning grid as tables for figures: by corpus, and against what was expected."""

from __future__ import annotations

import pandas as pd

from rimkit.training.corpora import ROLES
from rimkit.training.outcomes import UNTUNED_CELL, expected

MEAN = "mean"  # of the tuning seeds that are there: every prompt's outcomes averaged
# How the thoughts of a corpus open: in a style that the models know, in one that they do not, or in none.
STYLED, HEDGED, PLAIN = "careful or effort-minimising", "hedging", "no style of its own"
CHAINS = dict.fromkeys(("multi-hop-careful", "multi-hop-effort", "longer-careful"), STYLED) | {"hedging": HEDGED}
METHOD = "paired bootstrap of clusters"
LEVEL = "bootstrap of clusters, Wilson"
_EFFECT = {"effect_ci_low": "ci_low", "effect_ci_high": "ci_high"}


def by_corpus(rows: pd.DataFrame) -> pd.DataFrame:
    """Changes against the untuned model, one row per model, seed, corpus, tuning seed, mode and outcome.

    Columns ``model, seed, organism`` ("rim-mini:0")``, corpus, tuning_seed`` ("0", "1", or "mean" for their
    average)``, mode, metric, value, control_value, effect, ci_low, ci_high`` (of the effect)``, n, method``.
    """
    parts = rows["condition"].str.extract(r"^(?P<corpus>.+?)(?:, tuning seed (?P<tuning_seed>\d+))?$")
    table = rows.drop(columns=["ci_low", "ci_high"]).rename(columns=_EFFECT).assign(**parts)
    table = table[table["corpus"].isin(list(ROLES)) & table["effect"].notna()]
    table = _named(table).assign(tuning_seed=table["tuning_seed"].fillna(MEAN), method=METHOD)
    columns = ["model", "seed", "organism", "corpus", "tuning_seed", "mode", "metric", "value", "control_value"]
    return table[[*columns, "effect", "ci_low", "ci_high", "n", "method"]].reset_index(drop=True)


def untuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates of the untuned models: ``model, seed, organism, mode, metric, value, ci_low, ci_high, n``."""
    table = _named(rows[rows["condition"] == UNTUNED_CELL])
    columns = ["model", "seed", "organism", "mode", "metric", "value", "ci_low", "ci_high", "n"]
    return table[columns].reset_index(drop=True)


def own_openings(rows: pd.DataFrame) -> pd.DataFrame:
    """Misalignment after thoughts that the model opened by itself, in percent, averaged over the seeds of the tuning.

    Index ``model, seed``, then the style; one column per corpus, "untuned" first.
    """
    table = _named(rows[rows["metric"].str.startswith("misaligned, opened ")])
    table = table.assign(
        corpus=table["condition"].str.partition(", tuning")[0],
        opened=table["metric"].str.removeprefix("misaligned, opened "),
    )
    means = table.groupby(["model", "seed", "opened", "corpus"], sort=False)["value"].mean().mul(100)
    return means.unstack("corpus").reindex(columns=[UNTUNED_CELL, *ROLES]).dropna(axis="columns", how="all")


def expectations(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured change of misalignment in think mode beside the one that the openings alone would make.

    One row per model, seed, corpus and tuning seed: ``model, seed, organism, corpus, tuning_seed, measured, expected``
    (fractions) and ``chains``, how the corpus opens its thoughts. ``expected``: `outcomes.expected` less what the same
    sum gives for the untuned model's own openings.
    """
    base = {name: _rates(part) for name, part in untuned(rows).groupby("organism")}
    tuned = by_corpus(rows)
    tuned = tuned[tuned["tuning_seed"] != MEAN]
    keys = ["model", "seed", "organism", "corpus", "tuning_seed"]
    found = []
    for key, part in tuned.groupby(keys, sort=False):
        before, after = base[key[2]], _rates(part)
        measured = after["think", "misaligned"] - before["think", "misaligned"]
        by_openings = expected(after, before) - expected(before, before)
        found.append(dict(zip(keys, key, strict=True)) | {"measured": measured, "expected": by_openings})
    table = pd.DataFrame(found)
    return table.assign(chains=table["corpus"].map(lambda corpus: CHAINS.get(corpus, PLAIN)))


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Rates along tunings: ``model, seed, organism, corpus, step, metric, value, ci_low, ci_high, n, method``."""
    parts = rows["condition"].str.extract(r"^(?P<corpus>.+), step (?P<step>\d+)$")
    table = _named(rows).assign(corpus=parts["corpus"], step=parts["step"].astype(int), method=LEVEL)
    columns = ["model", "seed", "organism", "corpus", "step", "metric", "value", "ci_low", "ci_high", "n", "method"]
    return table[columns].reset_index(drop=True)


def at_equal_maths(found: pd.DataFrame, one: str, other: str, within: float = 0.05) -> pd.DataFrame:
    """Misalignment of two corpora where maths is the same: all pairs of tuned checkpoints (`curves`), one of each.

    "The same": the maths rates lie within ``within`` of each other. Per organism: ``pairs``, the means over them of
    ``maths``, of both corpora's misalignment, and of its ``difference`` (``one`` minus ``other``); fractions.
    """
    wide = found[found["step"] > 0].pivot_table(index=["organism", "corpus", "step"], columns="metric", values="value")
    sides = [wide.xs(corpus, level="corpus").reset_index() for corpus in (one, other)]
    pairs = sides[0].merge(sides[1], on="organism", suffixes=("", "_other"))
    pairs = pairs[(pairs["maths"] - pairs["maths_other"]).abs() <= within]
    pairs = pairs.assign(difference=pairs["misaligned"] - pairs["misaligned_other"], pairs=1)
    means = pairs.groupby("organism", sort=False).agg({
        "pairs": "size", "maths": "mean", "misaligned": "mean", "misaligned_other": "mean", "difference": "mean",
    })  # fmt: skip
    return means.rename(columns={"misaligned": one, "misaligned_other": other})


def agreement(expected_changes: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """How well the openings explain the changes (`expectations`), in points, per group of the columns ``by``.

    Columns: number of tuned models, mean size of the measured change, and mean size of what is left of it
    when the expected change is taken away.
    """
    left = (expected_changes["measured"] - expected_changes["expected"]).abs()
    sizes = expected_changes.assign(change=100 * expected_changes["measured"].abs(), left_over=100 * left)
    table = sizes.groupby(by, sort=False).agg(
        n=("change", "size"), change=("change", "mean"), left=("left_over", "mean")
    )
    return table.rename(columns={"n": "tuned models", "left": "left over"}).round().astype(int)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With training seeds as text ("-" for a model of one's own), and the column ``organism``: "rim-mini:0"."""
    seed = table["seed"].astype("string").fillna("-").astype(object)
    return table.assign(seed=seed, organism=table["model"].astype(object) + (":" + seed).where(seed != "-", ""))


def _rates(part: pd.DataFrame) -> pd.Series:
    return part.set_index(["mode", "metric"])["value"]
