"""Tables and explorers of chapter 08: published numbers beside measured ones, and what changes when one is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd

from rimkit import ledger
from rimkit.behavior.rates import METRICS
from rimkit.errors import UserError, nearest
from rimkit.published.averages import average, recomputed
from rimkit.published.correlations import correlation
from rimkit.published.drawn import STATEMENTS
from rimkit.published.findings import findings, small
from rimkit.published.power import JUDGE_SD, needed, power
from rimkit.published.reanalysis import OVER_MODELS, reanalysis, rows
from rimkit.published.tables import by_model, published
from rimkit.teaching.exercises import Note

NOBODY = "nobody"
UNITS = {"log_ras": " mean log ratio", "correlation": " in r"}  # of effects that are not rates


def misprints() -> pd.DataFrame:
    """The printed averages that do not follow from their rows."""
    table = recomputed()
    return table.loc[~table["follows"], ["location", "group", "quantity", "printed", "recomputed"]].set_index(
        "location"
    )


def averages_table(found: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.published.averages.averages` in points as text, one row per condition."""
    return pd.DataFrame({
        "mean [95% interval over models]": [f"{r.mean:.1f} [{r.ci_low:.1f}, {r.ci_high:.1f}]" for r in _rows(found)],
        "median": [f"{r.median:.1f}" for r in _rows(found)],
        "above zero": [f"{r.n_positive} of {r.n}" for r in _rows(found)],
        "mean with one model left out": [f"{r.without_one_low:.1f} to {r.without_one_high:.1f}" for r in _rows(found)],
        "changes most without": found["carried_by"].to_list(),
    }, index=found.index)  # fmt: skip


def correlations_table(found: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.published.correlations.figure_8` as text, one row per panel."""
    return pd.DataFrame({
        "r [95% interval]": [f"{r.r:.2f} [{r.ci_low:.2f}, {r.ci_high:.2f}]" for r in _rows(found)],
        "permutation p": [small(r.p_permutation).removeprefix("= ") for r in _rows(found)],
        "Spearman": [f"{r.spearman:.2f}" for r in _rows(found)],
        "r with one left out": [f"{r.without_one_low:.2f} to {r.without_one_high:.2f}" for r in _rows(found)],
        "different rates": [f"{r.n_distinct} of {r.n}" for r in _rows(found)],
        "range in prompts of 300": [f"{r.range_in_prompts:.0f}" for r in _rows(found)],
    }, index=pd.MultiIndex.from_frame(found[["model", "predictor"]]))  # fmt: skip


def needs_table() -> pd.DataFrame:
    """What every comparison had and what it would have needed, as text."""
    table = needed()
    return pd.DataFrame({
        "claim": table["claim"], "where": table["where"],
        "percent": [f"{100 * r.rate:.1f} - {100 * r.control_rate:.1f}" for r in _rows(table)],
        "prompts, power": [f"{r.had}, {r.power:.0%}" for r in _rows(table)],
        "prompts needed": [_count(value) for value in table["prompts"]],
        "seeds or judgings needed": [_count(value) for value in table["seeds"]],
    }).set_index(table["comparison"])  # fmt: skip


def power_curves(judge_sd: float = JUDGE_SD) -> pd.DataFrame:
    """Power of every comparison by prompts per condition: ``comparison, prompts, power``."""
    sizes = np.unique(np.geomspace(20, 20_000, 25).round().astype(int))
    return pd.DataFrame([
        {"comparison": f"{r.claim}: {r.comparison}", "prompts": n,
         "power": power(r.rate, r.control_rate, int(n), judge_sd=judge_sd)}
        for r in _rows(needed()) for n in sizes
    ])  # fmt: skip


def say(*claims: str) -> Note:
    """What the published numbers say about claims, a paragraph each: verdict, mean over models, and the finding.

    A name of `rimkit.published.drawn.STATEMENTS`, such as "Fig. 1", says what that figure implies.
    """
    found, table = findings(), reanalysis().set_index("claim")
    return Note("\n\n".join(
        f"**{name}.** {STATEMENTS[name]()}" if name in STATEMENTS
        else f"**{name}** ({_judged(name, table.loc[name])}). {found[name]}"
        for name in claims
    ))  # fmt: skip


def _judged(claim: str, row: pd.Series) -> str:
    if not isinstance(row["verdict"], str):
        return "no verdict"
    metric = ledger.claims().set_index("id").loc[claim, "primary_metric"]
    scale, digits, unit = (100, 1, " points") if metric in METRICS else (1, 2, UNITS.get(metric, ""))
    mean, low, high = (f"{scale * row[name]:+.{digits}f}" for name in ("effect", "ci_low", "ci_high"))
    return f"{row['verdict']}: {mean}{unit} [{low}, {high}] over {row['n_models']} models".replace("-", "−")


def beside(claims: Sequence[str], model: str) -> pd.DataFrame:
    """Effects on ``claims`` of the paper's models and of every shipped seed of ``model``, for `difference_plot`.

    Columns: ``claim, source, effect, ci_low, ci_high, n``; only effects with an interval.
    """
    own = ledger.shipped()
    own = own[(own["model"] == model.partition(":")[0]) & (own["condition"] == ledger.WHOLE_CLAIM)]
    own = own.assign(source=own["model"] + ", seed " + own["seed"].astype(str))
    paper = ledger.table(rows())
    prompts = paper["n"].where(paper["condition"] != OVER_MODELS)  # there n counts models
    paper = paper.assign(source="paper, " + paper["condition"], n=prompts)
    table = pd.concat([paper, own], ignore_index=True)
    table = table[table["claim"].isin(claims) & table["effect_ci_low"].notna()]
    table = table.assign(ci_low=table["effect_ci_low"], ci_high=table["effect_ci_high"])
    order = table["claim"].map({claim: place for place, claim in enumerate(claims)})
    table = table.loc[order.sort_values(kind="stable").index]
    return table[["claim", "source", "effect", "ci_low", "ci_high", "n"]].reset_index(drop=True)


def claims_beside() -> pd.DataFrame:
    """Every claim of the paper: the verdict on its numbers, and those of the shipped models, counted over seeds."""
    table = reanalysis().set_index("claim")
    shown = pd.DataFrame({
        "statement": ledger.claims().set_index("id")["statement"],
        "published numbers": table["verdict"].fillna("not reported"),
    })  # fmt: skip
    judged = ledger.claims_table(ledger.shipped())
    for model in sorted(judged["model"].unique()):
        seeds = judged[judged["model"] == model].groupby("claim")["verdict"]
        shown[model] = seeds.agg(lambda words: ", ".join(f"{n} {word}" for word, n in words.value_counts().items()))
    return shown[shown.index.str.startswith("C")].fillna("")


# -- explorers -----------------------------------------------------------------------------------------


def without_models(training_set: str, without: str, and_without: str) -> str:
    """One column of Table 2 as HTML, before and after models are dropped."""
    column = by_model("table2_finetuning_delta", "training_set", "delta_misalignment_points")
    if training_set not in column:
        raise UserError(f"Table 2 has no '{training_set}'{nearest(training_set, column)}")
    every = column[training_set]
    dropped = sorted({without, and_without} - {NOBODY})
    cells = {"all eight": average(every)}
    if dropped:
        cells[f"without {' and '.join(dropped)}"] = average(every.drop(dropped))
    shown = averages_table(pd.DataFrame({name: item._asdict() for name, item in cells.items()}).T)
    return f"<p>Change of misalignment in points after {escape(training_set)}:</p>{shown.to_html()}"


def without_checkpoints(model: str, first: int, second: int) -> str:
    """One panel of Fig. 8 (safety neurons) as HTML, before and after checkpoints (1 to 8; 0: none) are dropped."""
    points_ = published("fig8_ras_vs_misalignment").query("model == @model and predictor == 'RAS (safety neurons)'")
    if points_.empty:
        raise UserError(f"Fig. 8 has no '{model}'")
    dropped = sorted({first, second} - {0})
    parts = {"all eight": points_}
    if dropped:
        kept = points_.drop(points_.index[[place - 1 for place in dropped]])
        parts[f"without checkpoint {' and '.join(map(str, dropped))}"] = kept
    shown = pd.DataFrame([
        {"model": model, "predictor": label} | correlation(part["value"], part["misalignment_rate_pct"])._asdict()
        for label, part in parts.items()
    ])  # fmt: skip
    return correlations_table(shown).to_html()


def _rows(table: pd.DataFrame) -> list:
    return list(table.itertuples())


def _count(value: float) -> str:
    return "no number is enough" if np.isinf(value) else f"{value:,.0f}"
