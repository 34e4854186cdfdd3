"""The tables of ``data/paper``: what the paper printed or drew, and what that implies.

In percent, points and shares, as printed. ``data/paper/README.md`` says where each comes from, how
figures were read, and what is known to be wrong. What they say about a claim is in `reanalysis`.
"""

from collections.abc import Callable
from functools import cache, partial, wraps

import pandas as pd

from rimkit.data import UserError, data_dir, nearest

HARM_BENCHMARK = 300  # prompts of HEx-PHI, the paper's only safety benchmark
MATHS_PROBLEMS = 60  # AIME 2024 and 2025 together
PROMPTS = 180  # harmful prompts on which heads were looked at
READING = 0.005  # how far a ratio read off Fig. 1 may be from the one drawn: a line's width
MODELS = (
    "Qwen3-4B", "Phi3.5-Tiny", "Mistral-7B", "OLMo2-1B",  # fine-tuned: four dense,
    "Qwen3-30B-A3B", "Phi3.5-MoE", "Mixtral-8x7B", "OLMoE-7x1B",  # and four of experts
)  # fmt: skip


def computed_once(make: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    """The table is made when it is first asked for; everybody gets a copy."""
    made = cache(make)
    return wraps(make)(lambda *names: made(*names).copy())


def names() -> list[str]:
    """The names that `published` knows."""
    return sorted(file.stem for file in (data_dir() / "paper").glob("*.csv"))


@computed_once
def published(name: str) -> pd.DataFrame:
    """The table ``data/paper/<name>.csv``; raises `UserError` for an unknown name."""
    if name not in names():
        raise UserError(f"data/paper has no '{name}' (it has: {', '.join(names())}){nearest(name, names())}")
    return pd.read_csv(data_dir() / "paper" / f"{name}.csv")


def by_model(name: str, columns: str, values: str, rows="model", **how) -> pd.DataFrame:
    """A table of ``data/paper``, a row per model or per other ``rows``, in the order printed."""
    shape = {"index": rows, "columns": columns, "values": values, "sort": False}
    return published(name).pivot_table(**shape, **how).rename_axis(columns=None)


# Table 1, misalignment in percent: columns ``on, off`` (thinking).
think_rates = partial(by_model, "table1_think_mode", "think", "misalignment_rate_pct")
# Table 2 and Table A7, change of misalignment in points: a column per training set.
TUNED = "training_set", "delta_misalignment_points"
changes = partial(by_model, "table2_finetuning_delta", *TUNED)
literal_changes = partial(by_model, "table_a7_literal_control", *TUNED)


def injected() -> pd.DataFrame:
    """Tables A2-A4: misalignment in percent by ``model, pattern``, columns ``control, target``."""
    name = "tables_a2_a4_pattern_injection"
    return by_model(name, "prefix", "misalignment_rate_pct", ["model", "pattern"]).reset_index()


def table_2() -> pd.DataFrame:
    """Table 2 with words for its chains: columns ``model, trained_on, points``."""
    words = {"GSM8K(L)-control": "GSM8K(L) careful", "GSM8K(L)-target": "GSM8K(L) effort-minimising"}
    table = published("table2_finetuning_delta").replace({"training_set": words})
    names = {"training_set": "trained_on", "delta_misalignment_points": "points"}
    return table.rename(columns=names)[["model", *names.values()]]


def sentences() -> pd.DataFrame:
    """Tables A2-A4, with the think mode of Table 1 for the models that are in it. Columns: ``model,
    pattern, sentence`` (careful, effort-minimising, no injection), ``rate`` (percent)."""
    words = {"control": "careful", "target": "effort-minimising", "on": "no injection"}
    table = injected().join(think_rates()["on"], on="model").rename(columns=words)
    return table.melt(["model", "pattern"], list(words.values()), "sentence", "rate").dropna()


def zeroed() -> pd.DataFrame:
    """Fig. 6: ``model, neurons, what`` (misalignment rises by, maths falls by), ``points``."""
    words = {"delta_misalignment_points": "misalignment rises by", "math_drop_points": "maths falls by"}
    table = published("fig6_neuron_ablation").rename(columns=words)
    return table.melt(["model", "neurons"], list(words.values()), "what", "points")


def before_after() -> pd.DataFrame:
    """Fig. 1 with the levels that it implies, one row per model drawn, indexed by ``model``.
    Columns: ``maths, misalignment`` (before as a fraction of after, as drawn), ``change`` (points,
    GSM8K in Table 2), ``before, after`` (misalignment in percent: the ratio and the change fix
    both), ``before_low, before_high`` (percent, with the ratio read `READING` wrong)."""
    table = by_model("fig1_before_after", "quantity", "before_over_after")
    table["change"] = changes()["GSM8K"][table.index]
    table["before"] = implied_base(table["misalignment"], table["change"])
    table["after"] = table["before"] + table["change"]
    table["before_low"] = implied_base(table["misalignment"] - READING, table["change"])
    table["before_high"] = implied_base(table["misalignment"] + READING, table["change"])
    return table


def implied_base(ratio, change):
    """The rate (percent) that is ``ratio`` of itself plus ``change`` (points)."""
    return ratio * change / (1 - ratio)


SUMS = {"aggfunc": "sum", "fill_value": 0}


def flags() -> pd.DataFrame:
    """Fig. A5 by set of prompts, in percent: each pattern, none, and the ``total`` drawn."""
    table = by_model("figa5_flagged_categories", "pattern", "share_pct", "prompts", **SUMS)
    return table.assign(total=table.sum(axis=1))
