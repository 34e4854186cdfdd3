"""The paper's figures drawn again, and its tables beside measured ones, for chapter 08.

The numbers, and what follows from them, are computed in `rimkit.paper`; here they are shown.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rimkit import ledger
from rimkit.data import missing, number, p_value
from rimkit.paper import reanalysis as again
from rimkit.paper.findings import STATEMENTS, finding
from rimkit.paper.statistics import JUDGE_SD, power
from rimkit.paper.tables import HARM_BENCHMARK, MODELS
from rimkit.teaching.exercises import Note
from rimkit.teaching.figures import points
from rimkit.teaching.tables import Reading, effect_text, effect_writer, estimate, filled


def by_models(
    table: pd.DataFrame, x: str, value: str, *, title: str, label: str, facet: str | None = None,
    without: Sequence[str] = (), paired: bool = False, limits: tuple[float, float] | None = None,
) -> Figure:  # fmt: skip
    """`rimkit.teaching.figures.points` of the paper's models, with mean and median. ``without``
    adds the mean without some; ``paired`` joins a model's points. Its colour and marker stay."""
    styles = {"mean": "-", "median": ":"}
    styles |= {"mean without\n" + ",\n".join(without): "--"} if without else {}
    figure = points(
        table, x, hue="model", facet=facet, value=value, title=title, label=label, percent=False,
        hues=MODELS, joined=paired, limits=limits, free=True, caption="a point per model, measured once",
    )  # fmt: skip
    panels = [table] if facet is None else [part for _, part in table.groupby(facet, sort=False)]
    for axis, part in zip(figure.axes, panels, strict=True):
        axis.axhline(0, color="0.2", linewidth=0.8)
        for place, (_, here) in enumerate(part.groupby(x, sort=False)):
            for what, style in styles.items() if len(here) > 2 else ():
                kept = here[~here["model"].isin(without)] if style == "--" else here
                height = kept[value].agg("median" if what == "median" else "mean")
                name = None if place else what
                axis.plot([place - 0.42, place + 0.42], [height] * 2, style, color="black", label=name)
    if figure.axes[0].get_legend_handles_labels()[0]:
        figure.axes[0].legend(loc="best", fontsize=9.5)
    return figure


def power_curves() -> pd.DataFrame:
    """Power of every comparison by prompts per condition: ``claim, comparison, prompts,
    power``. Fig. 5, read by no judge: the exact test; others: a noisy judge."""
    sizes, table = np.geomspace(20, 20_000, 17).round().astype(int).tolist(), again.needed()

    def at(item, n: int) -> float:
        exact = item.claim == "C5a"
        size = n * (1 - 1 / (n * abs(item.rate - item.control_rate))) ** 2 if exact else n
        return power(item.rate, item.control_rate, max(1, size), judge_sd=0.0 if exact else JUDGE_SD)

    return pd.DataFrame([
        {"claim": item.claim, "comparison": item.comparison, "prompts": n, "power": at(item, n)}
        for item in table.itertuples() for n in sizes
    ])  # fmt: skip


def beside(claims: Sequence[str], model: str) -> pd.DataFrame:
    """Effects on ``claims`` of the paper's models and of the shipped seeds of ``model``. Columns:
    ``claim, source, effect, ci_low, ci_high, n``; only effects with an interval."""
    own, printed = ledger.shipped(), again.effects()
    own = own[own["model"] == model.partition(":")[0]]
    own = own.assign(source=own["model"] + ", seed " + own["seed"].astype(str))
    own = own.rename(columns={"effect_ci_low": "ci_low", "effect_ci_high": "ci_high"})
    prompts = printed["n"].where(printed["model"] != again.OVER_MODELS)  # there n counts models
    printed = printed.assign(source="paper, " + printed["model"], n=prompts)
    both = pd.concat([printed, own])[["claim", "source", "effect", "ci_low", "ci_high", "n"]]
    table = both.dropna(subset="ci_low").set_index("claim")
    return table.loc[[claim for claim in claims if claim in table.index]].reset_index()


def claims_beside() -> pd.DataFrame:
    """Of every claim: the verdict on the paper's numbers, and those of the shipped models."""
    shown = pd.DataFrame({
        "statement": ledger.claims().set_index("id")["statement"],
        "published numbers": again.reanalysis().set_index("claim")["verdict"].fillna("not reported"),
    })  # fmt: skip
    judged = ledger.claims_table(ledger.shipped())
    seeds = judged.groupby(["claim", "model"])["seed"].transform("count")
    judged = judged[judged["seed"].notna() | (seeds == 0)]  # the same numbers may stand there twice
    for model, part in judged.groupby("model"):
        counts = part.groupby("claim")["verdict"].value_counts().rename("n").reset_index()
        said = counts["n"].astype(str) + " " + counts["verdict"]
        shown[model] = said.groupby(counts["claim"]).agg(", ".join)
    return shown[shown.index.str.startswith("C")].fillna("").rename_axis("claim")


def standard_table() -> pd.DataFrame:
    """`rimkit.paper.reanalysis.by_one_standard` to read."""
    known = ledger.claims().set_index("id")
    found = again.by_one_standard().set_index("claim").join(known["primary_metric"].rename("metric"))
    rows = found.to_dict("records")
    return pd.DataFrame({
        "where": found["where"], "what": found["statement"],
        "effect": [effect_text(row, "ci") for row in rows],
        "over": [f"{row['n']} {row['unit']}" for row in rows],
        "one model left out": [
            "–" if missing(row["without_low"]) else " to ".join(map(effect_writer(row["metric"]), ends))
            for row, ends in zip(rows, found[["without_low", "without_high"]].to_numpy(), strict=True)
        ],
        "would need": [f"{_count(row['needed'])} {row['unit']}" for row in rows],
        "p × family": found["p_adjusted"].map(p_value),
        "verdict": found["verdict"].fillna("not reported"),
    })  # fmt: skip


def say(*claims: str) -> Note:
    """What the published numbers say about claims: verdict, mean over models, and the finding. A
    name of `rimkit.paper.findings.STATEMENTS`, such as "Fig. 1", says what that figure implies."""
    metrics = ledger.claims()["primary_metric"]  # in the order of the claims, as the table
    table = again.reanalysis().assign(metric=metrics).set_index("claim")
    return Note("\n\n".join(
        f"**{name}.** {STATEMENTS[name]()}" if name in STATEMENTS
        else f"**{name}** ({_judged(table.loc[name])}). {finding(name)}"
        for name in claims
    ))  # fmt: skip


def _judged(row: pd.Series) -> str:
    effect = f"{effect_text(row, 'ci')} over {row['n_models']} models"
    return "no verdict" if missing(row["verdict"]) else f"{row['verdict']}: {effect}"


def reading(text: str, **values: Any) -> Reading:
    """`rimkit.teaching.tables.our_reading` of the published numbers, which are the same whatever
    the model; raises `WordsAndNumbers` where they do not bear the words out."""
    return Reading(filled(text, values))


def averages_table(found: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.paper.statistics.averages` in points, a row per condition."""
    write = partial(number, digits=1)
    mean, without = _with_one_out(found, "mean", write)
    return pd.DataFrame({
        "mean [95% interval over models]": mean, "median": found["median"].map(write),
        "above zero": [f"{r.n_positive} of {r.n}" for r in found.itertuples()],
        "mean with one model left out": without, "changes most without": found["carried_by"],
    })  # fmt: skip


def correlations_table(found: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.paper.reanalysis.figure_8`, a row per panel."""
    r, without = _with_one_out(found, "r", number)
    return pd.DataFrame({
        "r [95% interval]": r, "permutation p": found["p_permutation"].map(p_value),
        "Spearman": found["spearman"].map(number), "r with one left out": without,
        "different rates": [f"{r.n_distinct} of {r.n}" for r in found.itertuples()],
        "range in prompts of 300": (HARM_BENCHMARK / 100 * found["range_of_rates"]).map(_count),
    }).set_index(pd.MultiIndex.from_frame(found[["model", "predictor"]]))  # fmt: skip


def _with_one_out(found: pd.DataFrame, value: str, write: Callable) -> tuple[list[str], pd.Series]:
    """A number with its interval, and the range of it with one model or checkpoint left out."""
    low, high = (found[f"without_one_{end}"].map(write) for end in ("low", "high"))
    return [estimate(row, value, write) for row in found.to_dict("records")], low + " to " + high


def needs_table() -> pd.DataFrame:
    """What every comparison had and what it would have needed."""
    table = again.needed()
    rates = (100 * table[["rate", "control_rate"]]).map(partial(number, digits=1))
    return pd.DataFrame({
        "claim": table["claim"], "where": table["where"],
        "percent": rates["rate"] + " against " + rates["control_rate"],
        "prompts, power": [f"{r.had}, {number(100 * r.power, 0)}%" for r in table.itertuples()],
        "prompts needed, uncorrected": table["prompts"].map(_count),
        "with training noise": table["with_training"].map(_count),
        "seeds or judgings needed": table["seeds"].map(_count),
    }).set_index(table["comparison"])  # fmt: skip


def _count(value: float) -> str:
    return "–" if missing(value) else "no number is enough" if np.isinf(value) else number(value, 0)
