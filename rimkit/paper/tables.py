"""The tables of ``data/paper``: what the paper printed or drew, as it stands there (percent, points, shares).

``data/paper/README.md`` says where each comes from, how figures were digitised, and what is known to be wrong.

What the paper drew without a table: Fig. 1 (before and after GSM8K), Fig. A3 (where heads look), Fig. A5 (flags).

Everything is computed from the points in ``data/paper``; `STATEMENTS` says it in sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pandas as pd

from rimkit.data import UserError, data_dir, nearest

# -- published.tables ----------
HARM_BENCHMARK = 300  # prompts of HEx-PHI, the paper's only safety benchmark
MATHS_PROBLEMS = 60  # AIME 2024 and 2025 together
MODELS = (
    "Qwen3-4B",
    "Phi3.5-Tiny",
    "Mistral-7B",
    "OLMo2-1B",
    "Qwen3-30B-A3B",
    "Phi3.5-MoE",
    "Mixtral-8x7B",
    "OLMoE-7x1B",
)  # fine-tuned: four dense, four of experts


def names() -> list[str]:
    """The names that `published` knows."""
    return sorted(file.stem for file in (data_dir() / "paper").glob("*.csv"))


def published(name: str) -> pd.DataFrame:
    """The table ``data/paper/<name>.csv``; raises `UserError` for an unknown name."""
    if name not in names():
        raise UserError(f"data/paper has no '{name}' (it has: {', '.join(names())}){nearest(name, names())}")
    return _read(name).copy()


@lru_cache
def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(data_dir() / "paper" / f"{name}.csv")


def by_model(name: str, columns: str, values: str) -> pd.DataFrame:
    """A table of ``data/paper`` with one row per model, in the order printed, and one column per condition."""
    table = published(name)
    wide = table.pivot_table(index="model", columns=columns, values=values, sort=False)
    return wide.rename_axis(columns=None)


def injected() -> pd.DataFrame:
    """Tables A2-A4: misalignment in percent by ``model, pattern``, columns ``control, target``."""
    table = published("tables_a2_a4_pattern_injection")
    wide = table.pivot_table(index=["model", "pattern"], columns="prefix", values="misalignment_rate_pct", sort=False)
    return wide.rename_axis(columns=None).reset_index()


# -- published.drawn ----------
READING = 0.005  # how far a ratio read off Fig. 1 may be from the one drawn: about the width of a line
HEADS = 36 * 32  # attention heads of Qwen3-4B
PROMPTS = 180  # harmful prompts on which heads were looked at


def before_after() -> pd.DataFrame:
    """Fig. 1 with the levels that it implies, one row per model drawn, indexed by ``model``.

    Columns: ``maths, misalignment`` (before as a fraction of after, as drawn)``, change`` (points, GSM8K in
    Table 2)``, before, after`` (misalignment in percent: the ratio and the change fix both)``, before_low,
    before_high`` (percent, had the ratio been read `READING` too high or too low).
    """
    table = by_model("fig1_before_after", "quantity", "before_over_after")
    change = by_model("table2_finetuning_delta", "training_set", "delta_misalignment_points")["GSM8K"]
    table["change"] = change[table.index]
    table["before"] = implied_base(table["misalignment"], table["change"])
    table["after"] = table["before"] + table["change"]
    table["before_low"] = implied_base(table["misalignment"] - READING, table["change"])
    table["before_high"] = implied_base(table["misalignment"] + READING, table["change"])
    return table


def implied_base(ratio, change):
    """The rate (percent) that is ``ratio`` of itself plus ``change`` (points): ratio * change / (1 - ratio)."""
    return ratio * change / (1 - ratio)


def known_rates() -> pd.DataFrame:
    """Rates printed or drawn elsewhere for the models of Fig. 1, to hold the implied ones against.

    Columns ``model, what, low, high`` (percent): Table 1 without and with thinking, and the checkpoints of Fig. 8.
    """
    table1 = published("table1_think_mode").assign(what=lambda t: "Table 1, think " + t["think"])
    figure8 = published("fig8_ras_vs_misalignment").query("predictor == 'RAS (safety neurons)'")
    both = pd.concat([table1, figure8.assign(what="Fig. 8, checkpoints")])
    both = both[both["model"].isin(before_after().index)]
    rates = both.groupby(["model", "what"], sort=False)["misalignment_rate_pct"]
    return rates.agg(low="min", high="max").reset_index()


def above_base() -> pd.Series:
    """Per model of Fig. 1: effort-minimising cells of Tables A2-A4 (of three) above the base that Fig. 1 implies."""
    base = before_after()["before"]
    cells = injected()
    cells = cells[cells["model"].isin(base.index)]
    above = cells["target"] > cells["model"].map(base)
    return above.groupby(cells["model"], sort=False).sum()[base.index].rename("above")


def attention() -> pd.DataFrame:
    """Fig. A3 by mode: ``drawn`` maxima, ``cells`` (prompts times heads), ``covered`` = drawn / cells.

    And ``assistant, span, shifted``: the share of the drawn maxima at `assistant` and in the empty span, and how
    many of those the shifts of Fig. 4b, added over its heads, can be at most (at `assistant` when thinking, in the
    span when not). The span does not exist in think mode (0).
    """
    table = published("figa3_attention_maxima").pivot_table(
        index="mode", columns="token", values="maxima", aggfunc="sum", sort=False, fill_value=0
    )
    shifts = published("fig4b_refusal_head_counts")["prompts_of_180"].sum()
    found = pd.DataFrame({"drawn": table.sum(axis=1), "cells": PROMPTS * HEADS})
    found["covered"] = found["drawn"] / found["cells"]
    found["assistant"] = table["assistant"] / found["drawn"]
    found["span"] = table["between think tags"] / found["drawn"]
    found["shifted"] = shifts / table[["assistant", "between think tags"]].max(axis=1)
    return found.rename_axis(columns=None)


def maxima() -> pd.DataFrame:
    """Fig. A3 in the order of the prompt: columns ``mode, place, maxima, note``.

    ``place`` is a token with its offset from `assistant`; ``note`` says how many of all cells a mode covers.
    """
    table, found = published("figa3_attention_maxima"), attention()
    offset = pd.to_numeric(table["offset"], errors="coerce")  # "other" has none, and comes last
    signed = offset.map(lambda n: "" if pd.isna(n) else f" ({n:+.0f})".replace("-", "−").replace("+0", "0"))
    notes = {mode: f"{row['drawn']:,.0f} of {row['cells']:,.0f} cells" for mode, row in found.iterrows()}
    words = {"think": "with thinking", "no-think": "without thinking"}
    table = table.assign(place=table["token"] + signed, note=table["mode"].map(notes), mode=table["mode"].map(words))
    return table.loc[offset.sort_values(kind="stable").index, ["mode", "place", "maxima", "note"]]


def flags() -> pd.DataFrame:
    """Fig. A5 by set of prompts: ``total`` of the shares drawn and the share of each ``pattern`` and of none (%)."""
    table = published("figa5_flagged_categories").pivot_table(
        index="prompts", columns="pattern", values="share_pct", aggfunc="sum", sort=False, fill_value=0
    )
    return table.assign(total=table.sum(axis=1)).rename_axis(columns=None)


# -- in sentences --------------------------------------------------------------------------------------


def _figure_1() -> str:
    found = before_after()
    change = by_model("table2_finetuning_delta", "training_set", "delta_misalignment_points")["GSM8K"]
    largest = set(change.nlargest(len(found)).index) == set(found.index)
    table1 = by_model("table1_think_mode", "think", "misalignment_rate_pct").loc["Qwen3-4B"]
    bases = ", ".join(
        f"{model} {row['before']:.1f}% ({row['before_low']:.1f} to {row['before_high']:.1f})"
        for model, row in found.iterrows()
    )
    chosen = f"{len(found)} of {len(change)} models are drawn{', those with the largest rises' if largest else ''}. "
    return (
        f"{chosen}With the changes of Table 2 the ratios imply these misalignment rates before tuning: {bases}; in "
        f"brackets, with a ratio read {READING} wrong.{_other_change(found)} "
        f"Table 1 has Qwen3-4B at {table1['off']:.1f}% without and "
        f"{table1['on']:.1f}% with thinking: the baseline of its change is {baseline(found.loc['Qwen3-4B'], table1)}."
    )


def _other_change(found: pd.DataFrame) -> str:
    """Where Table A7 prints another change after GSM8K than Table 2: the rate that it would imply."""
    other = by_model("table_a7_literal_control", "training_set", "delta_misalignment_points")["GSM8K"][found.index]
    differ = found.index[(other - found["change"]).abs() > 0.01]
    bases = implied_base(found["misalignment"], other)
    return "".join(f" With the change that Table A7 prints {name} would be {bases[name]:.1f}%." for name in differ)


def over_implied_base() -> str:
    """Tables A2-A4 against the bases that Fig. 1 implies, in one sentence."""
    said = ", ".join(f"{model} {n}" for model, n in above_base().items())
    return f"Effort-minimising cells, of three, above the untuned rate that Fig. 1 implies: {said}."


def baseline(row: pd.Series, rates: pd.Series) -> str:
    """Which of Table 1's rates lies within what Fig. 1 can mean: "the no-think rate", "the think rate" or "neither"."""
    fits = [name for name, mode in (("the no-think rate", "off"), ("the think rate", "on"))
            if row["before_low"] <= rates[mode] <= row["before_high"]]  # fmt: skip
    return fits[0] if len(fits) == 1 else "neither rate for certain"


def _figure_a3() -> str:
    found = attention()
    think, other = found.loc["think"], found.loc["no-think"]
    shifts = published("fig4b_refusal_head_counts")["prompts_of_180"].sum()
    share = "{:.0%}".format
    return (
        f"Drawn are {think['drawn']:,.0f} maxima with thinking and {other['drawn']:,.0f} without: "
        f"{share(think['covered'])} and {share(other['covered'])} of {PROMPTS} x {HEADS} = {think['cells']:,.0f} cells "
        f"(prompts times heads). Where the rest look is not said. Of those drawn, {share(think['assistant'])} lie at "
        f"`assistant` with thinking and {share(other['assistant'])} without; {share(other['span'])} lie in the empty "
        f"span, which only the prompt without thinking has. The shifts of Fig. 4b add up to {shifts:,} cells: at most "
        f"{share(think['shifted'])} of the maxima at `assistant`, and {share(other['shifted'])} of those in the span."
    )


def _figure_a5() -> str:
    table = flags()
    totals = "; ".join(
        f"{name}: the shares drawn add up to {row['total']:.1f}%, of which {row['none']:.1f} are other"
        for name, row in table.iterrows()
    )
    patterns = ", ".join(
        f"{name} {' and '.join(f'{share:.0f}%' for share in table[name])}"
        for name in table.drop(columns=["none", "total"])
    )
    return f"{totals}. By pattern ({' and '.join(table.index)}): {patterns}."


STATEMENTS: dict[str, Callable[[], str]] = {"Fig. 1": _figure_1, "Fig. A3": _figure_a3, "Fig. A5": _figure_a5}
