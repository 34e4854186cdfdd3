"""The paper's figures drawn again, and its tables beside measured ones, for chapter 08.

What the numbers are and what follows from them is computed in `rimkit.paper`; here they are only
shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rimkit import ledger
from rimkit.behavior.stats import METRICS
from rimkit.data import UserError, interval, nearest, number, p_value
from rimkit.data import points as in_points
from rimkit.paper.findings import STATEMENTS, finding
from rimkit.paper.reanalysis import OVER_MODELS, effects, needed, reanalysis, recomputed
from rimkit.paper.statistics import JUDGE_SD, average, correlation, power
from rimkit.paper.tables import HARM_BENCHMARK, MODELS, before_after, by_model, known_rates, published
from rimkit.teaching.exercises import Note
from rimkit.teaching.figures import points
from rimkit.teaching.tables import html

NOBODY = "nobody"
UNITS = {"log_ras": " mean log ratio", "correlation": " in r"}  # of effects that are not rates


def by_models(
    table: pd.DataFrame, x: str, value: str, *, title: str, label: str, facet: str | None = None,
    without: Sequence[str] = (), paired: bool = False, limits: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """`rimkit.teaching.figures.points` of the paper's models, with their mean and median.

    ``without`` adds the mean without some models; ``paired`` joins the points of a model. A model
    has the same colour and marker in every figure.
    """
    marks = [("mean", "-", set()), ("median", ":", set()), (f"mean without {', '.join(without)}", "--", set(without))]
    marks = marks[: 3 if without else 2]
    said = ", ".join(f"{style}  {name}" for name, style, _ in marks)
    figure = points(
        table, x, hue="model", facet=facet, value=value, title=title, label=label, percent=False,
        hues=MODELS, joined=paired, limits=limits, caption=f"a point per model, measured once; {said}",
    )  # fmt: skip
    panels = [table] if facet is None else [part for _, part in table.groupby(facet, sort=False)]
    for axis, part in zip(figure.axes, panels, strict=True):
        axis.axhline(0, color="0.2", linewidth=0.8)
        for place, name in enumerate(part[x].unique()):
            here = part[part[x] == name]
            for what, style, left_out in marks if len(here) > 2 else ():
                kept = here.loc[~here["model"].isin(left_out), value]
                height = kept.median() if what == "median" else kept.mean()
                axis.plot([place - 0.42, place + 0.42], [height] * 2, color="black", linestyle=style, label=what)
    return figure


def implied_rates() -> pd.DataFrame:
    """Rates of the models of Fig. 1 in percent: ``model, rates, value, ci_low, ci_high``.

    Before and after tuning as the figure's ratio and the change of Table 2 imply them (range: the
    ratio read `rimkit.paper.tables.READING` wrong), and what is known of the same models from
    elsewhere.
    """
    found = before_after().reset_index()
    names = {"before": "value", "before_low": "ci_low", "before_high": "ci_high"}
    before = found[["model", *names]].rename(columns=names)
    after = found[["model", "after"]].rename(columns={"after": "value"})
    known = known_rates().rename(columns={"what": "rates", "low": "ci_low", "high": "ci_high"})
    known["value"] = known[["ci_low", "ci_high"]].mean(axis=1)
    parts = [before.assign(rates="before tuning, implied"), after.assign(rates="after tuning, implied"), known]
    return pd.concat(parts, ignore_index=True)[["model", "rates", "value", "ci_low", "ci_high"]]


def power_curves() -> pd.DataFrame:
    """Power of every comparison by prompts per condition: ``comparison, prompts, power``."""
    sizes = np.unique(np.geomspace(20, 20_000, 25).round().astype(int))
    return pd.DataFrame([
        {"comparison": f"{item.claim}: {item.comparison}", "prompts": n,
         "power": power(item.rate, item.control_rate, int(n), judge_sd=JUDGE_SD)}
        for item in needed().itertuples() for n in sizes
    ])  # fmt: skip


def beside(claims: Sequence[str], model: str) -> pd.DataFrame:
    """Effects on ``claims`` of the paper's models and of the shipped seeds of ``model``.

    Columns: ``claim, source, effect, ci_low, ci_high, n``; only effects with an interval.
    """
    own = ledger.shipped()
    own = own[(own["model"] == model.partition(":")[0]) & (own["condition"] == ledger.WHOLE_CLAIM)]
    own = own.assign(source=own["model"] + ", seed " + own["seed"].astype(str))
    own = own.assign(ci_low=own["effect_ci_low"], ci_high=own["effect_ci_high"])
    printed = effects()
    prompts = printed["n"].where(printed["model"] != OVER_MODELS)  # there n counts models
    printed = printed.assign(source="paper, " + printed["model"], n=prompts)
    columns = ["claim", "source", "effect", "ci_low", "ci_high", "n"]
    table = pd.concat([printed[columns], own[columns]], ignore_index=True)
    table = table[table["claim"].isin(claims) & table["ci_low"].notna()]
    order = table["claim"].map({claim: place for place, claim in enumerate(claims)})
    return table.loc[order.sort_values(kind="stable").index].reset_index(drop=True)


def claims_beside() -> pd.DataFrame:
    """Of every claim: the verdict on the paper's numbers, and those of the shipped models."""
    shown = pd.DataFrame({
        "statement": ledger.claims().set_index("id")["statement"],
        "published numbers": reanalysis().set_index("claim")["verdict"].fillna("not reported"),
    })  # fmt: skip
    judged = ledger.claims_table(ledger.shipped())
    for model, part in judged.groupby("model"):
        counts = part.groupby("claim")["verdict"].value_counts(sort=True)
        cells = counts.reset_index().groupby("claim").apply(
            lambda found: ", ".join(f"{n} {word}" for word, n in zip(found["verdict"], found["count"], strict=True))
        )  # fmt: skip
        shown[model] = cells
    return shown[shown.index.str.startswith("C")].fillna("").rename_axis("claim")


def say(*claims: str) -> Note:
    """What the published numbers say about claims: verdict, mean over models, and the finding.

    A name of `rimkit.paper.findings.STATEMENTS`, such as "Fig. 1", says what that figure implies.
    """
    table = reanalysis().set_index("claim")
    return Note("\n\n".join(
        f"**{name}.** {STATEMENTS[name]()}" if name in STATEMENTS
        else f"**{name}** ({_judged(name, table.loc[name])}). {finding(name)}"
        for name in claims
    ))  # fmt: skip


def _judged(claim: str, row: pd.Series) -> str:
    if not isinstance(row["verdict"], str):
        return "no verdict"
    metric = ledger.claims().set_index("id").loc[claim, "primary_metric"]
    share = metric in METRICS

    def write(value: float) -> str:
        return in_points(value, 1) if share else number(value, signed=True)

    unit, ends = " points" if share else UNITS.get(metric, ""), interval(row["ci_low"], row["ci_high"], write)
    return f"{row['verdict']}: {write(row['effect'])}{unit} {ends} over {row['n_models']} models"


# its tables


def misprints() -> pd.DataFrame:
    """The printed averages that do not follow from their rows."""
    table = recomputed()
    columns = ["location", "group", "quantity", "printed", "recomputed"]
    return table.loc[~table["follows"], columns].set_index("location")


def averages_table(found: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.paper.statistics.averages` in points, a row per condition."""
    return pd.DataFrame({
        "mean [95% interval over models]": [_number(r.mean, r.ci_low, r.ci_high, 1) for r in found.itertuples()],
        "median": [number(r.median, 1) for r in found.itertuples()],
        "above zero": [f"{r.n_positive} of {r.n}" for r in found.itertuples()],
        "mean with one model left out": [_range(r.without_one_low, r.without_one_high, 1) for r in found.itertuples()],
        "changes most without": found["carried_by"].to_list(),
    }, index=found.index)  # fmt: skip


def correlations_table(found: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.paper.reanalysis.figure_8`, a row per panel."""
    return pd.DataFrame({
        "r [95% interval]": [_number(r.r, r.ci_low, r.ci_high, 2) for r in found.itertuples()],
        "permutation p": found["p_permutation"].map(p_value).to_list(),
        "Spearman": found["spearman"].map(number).to_list(),
        "r with one left out": [_range(r.without_one_low, r.without_one_high, 2) for r in found.itertuples()],
        "different rates": [f"{r.n_distinct} of {r.n}" for r in found.itertuples()],
        "range in prompts of 300": [number(r.range_of_rates * HARM_BENCHMARK / 100, 0) for r in found.itertuples()],
    }, index=pd.MultiIndex.from_frame(found[["model", "predictor"]]))  # fmt: skip


def needs_table() -> pd.DataFrame:
    """What every comparison had and what it would have needed."""
    table = needed()
    return pd.DataFrame({
        "claim": table["claim"], "where": table["where"],
        "percent": [f"{number(100 * r.rate, 1)} against {number(100 * r.control_rate, 1)}" for r in table.itertuples()],
        "prompts, power": [f"{r.had}, {number(100 * r.power, 0)}%" for r in table.itertuples()],
        "prompts needed": table["prompts"].map(_count),
        "seeds or judgings needed": table["seeds"].map(_count),
    }).set_index(table["comparison"])  # fmt: skip


def without_models(training_set: str, without: str, and_without: str) -> str:
    """For an explorer: one column of Table 2 before and after models are dropped."""
    column = by_model("table2_finetuning_delta", "training_set", "delta_misalignment_points")
    if training_set not in column:
        raise UserError(f"Table 2 has no '{training_set}'{nearest(training_set, column)}")
    every, dropped = column[training_set], sorted({without, and_without} - {NOBODY})
    parts = {"all eight": every}
    if dropped:
        parts[f"without {' and '.join(dropped)}"] = every.drop(dropped)
    shown = pd.DataFrame({name: average(part)._asdict() for name, part in parts.items()}).T.rename_axis("models")
    return f"<p>Change of misalignment in points after {escape(training_set)}:</p>{html(averages_table(shown))}"


def without_checkpoints(model: str, first: int, second: int) -> str:
    """For an explorer: one panel of Fig. 8 before and after checkpoints are dropped."""
    drawn = published("fig8_ras_vs_misalignment").query("model == @model and predictor == 'RAS (safety neurons)'")
    if drawn.empty:
        raise UserError(f"Fig. 8 has no '{model}'")
    dropped = sorted({first, second} - {0})
    parts = {"all eight": drawn}
    if dropped:
        kept = drawn.drop(drawn.index[[place - 1 for place in dropped]])
        parts[f"without checkpoint {' and '.join(map(str, dropped))}"] = kept
    shown = pd.DataFrame([
        {"model": model, "predictor": label} | correlation(part["value"], part["misalignment_rate_pct"])._asdict()
        for label, part in parts.items()
    ])  # fmt: skip
    return html(correlations_table(shown))


def _number(value: float, low: float, high: float, digits: int) -> str:
    return f"{number(value, digits)} {interval(low, high, lambda end: number(end, digits))}".strip()


def _range(low: float, high: float, digits: int) -> str:
    return f"{number(low, digits)} to {number(high, digits)}"


def _count(value: float) -> str:
    return "no number is enough" if np.isinf(value) else number(value, 0)
