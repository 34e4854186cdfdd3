"""Tables of chapter 06: effects with exact p values, verdicts with the size of the set, recovery of a planted set."""

from __future__ import annotations

import pandas as pd

from rimkit.teaching.tables import effect_table, seed_table

KEYS = ["rule", "mode", "set", "metric"]
P_VALUE = "exact p (random sets)"


def ablation_table(effects: pd.DataFrame) -> pd.DataFrame:
    """Selected against random neurons, both in percent, the effect, and the exact p value with its number of sets.

    ``effects``: rows of `neuron_effects.compared` against random neurons with the columns ``rule, share, n_random``.
    """
    shown = effect_table(effects, KEYS)
    percent = shown.pop("percent").str.replace(" - ", " against ", regex=False)
    shown = shown.drop(columns="compared")
    shown.insert(0, "percent, selected against random", percent)
    shown[P_VALUE] = [f"{share:.2f} ({n:.0f})" for share, n in zip(effects["share"], effects["n_random"], strict=True)]
    return shown


def verdict_table(rows: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Verdicts of C8 by model and seed with the set's size and the exact p values of `neuron_rows.verdict_facts`.

    ``rows`` are all rows of the ledger: the correction for several claims is over a model's primary claims.
    """
    verdicts = seed_table(rows, ["C8a", "C8b"])
    p_values = facts[["C8a p", "C8b p"]].map("{:.2f}".format)
    joined = facts[["neurons"]].join(verdicts, how="inner").join(p_values)
    return joined[["neurons", "C8a", "C8a p", "C8b", "C8b p"]]


def recovery_table(recovered: pd.DataFrame) -> pd.DataFrame:
    """Percent of `planting.controls` by rule: mean and range over draws of precision and AUROC, chance beside them."""
    by_rule = recovered.groupby("rule", sort=False)
    columns = {name: by_rule[name].agg(["mean", "min", "max"]) for name in ("precision", "auroc")}
    shown = {name: [f"{100 * a:.0f} [{100 * b:.0f} to {100 * c:.0f}]" for a, b, c in t.itertuples(index=False)]
             for name, t in columns.items()}  # fmt: skip
    chance = [f"{100 * value:.1f}" for value in by_rule["chance"].mean()]
    index = columns["precision"].index
    return pd.DataFrame({"precision": shown["precision"], "chance precision": chance, "AUROC": shown["auroc"]}, index)
