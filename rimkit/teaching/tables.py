"""Tables and sentences for readers: one renderer, whole percents, always with their interval.

Tables of chapter 06: effects with exact p values, verdicts with the size of the set, recovery of a planted set.

Tables and explorers of chapter 08: published numbers beside measured ones, and what changes when one is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

import numpy as np
import pandas as pd

from rimkit import ledger
from rimkit.behavior import redaction
from rimkit.behavior.stats import METRICS
from rimkit.data import UserError, missing, nearest, number, p_value, percent
from rimkit.data import points as in_points
from rimkit.paper.findings import STATEMENTS, finding
from rimkit.paper.reanalysis import OVER_MODELS, effects, needed, reanalysis, recomputed
from rimkit.paper.statistics import JUDGE_SD, average, correlation, power
from rimkit.paper.tables import HARM_BENCHMARK, by_model, published
from rimkit.teaching.exercises import Note

VERDICTS = {  # sign, background, text
    "supported": ("✓", "#cfe8d5", "#0b4a1c"), "contradicted": ("✗", "#f6d0d0", "#7a1010"),
    "small": ("~", "#dce7f5", "#16406f"), "no effect": ("=", "#dce7f5", "#16406f"),
    "undecided": ("?", "#ececec", "#333"), "not testable": ("∅", "#f3e6c4", "#5c4300"),
    "refused": ("✋", "#dce7f5", "#16406f"), "misaligned": ("✗", "#f6d0d0", "#7a1010"),
    "misread": ("≠", "#f3e6c4", "#5c4300"), "incoherent": ("∅", "#ececec", "#333"),
}  # fmt: skip
CHIP = re.compile(rf"(?:^|(?<= ))(?:{'|'.join(VERDICTS)})$")
NUMBER = re.compile(r"[-+−<>]?\s?\d[\d,.]*\s?%?(\s?\[[^\]]*\])?(\s?\(\d[\d,]*\))?")
TOGETHER = re.compile(r"\[[^\[\]]{1,30}\]|\d to [−+-]?\d")  # intervals, which a line never breaks


@dataclass(frozen=True)
class Table:
    """A table as it is shown: texts in a DataFrame, HTML in a notebook."""

    frame: pd.DataFrame
    caption: str = ""

    def __repr__(self) -> str:
        return self.frame.to_string(index=not _is_counter(self.frame.index))

    def _repr_html_(self) -> str:
        return html(self.frame, self.caption)


def table(
    frame: pd.DataFrame, *, percent: Iterable[str] | bool = (), points: Iterable[str] | bool = (), digits: int = 2,
    caption: str = "",
) -> Table:  # fmt: skip
    """The frame as a reader sees it: numbers with few digits, shares (``percent``) and differences (``points``) named.

    ``percent`` and ``points`` are names of columns, or True for all columns of fractions. An index with
    a name stands in front; a plain count is left out.
    """
    return Table(_written(frame, percent, points, digits), caption)


def html(frame: pd.DataFrame, caption: str = "") -> str:
    """The frame as an HTML table: prose left, numbers right, intervals unbroken, verdicts as chips, all escaped."""
    frame = _written(frame)
    if not _is_counter(frame.index):
        depth = frame.index.nlevels
        names = [name or "" for name in frame.index.names]
        if isinstance(frame.columns, pd.MultiIndex):
            frame = frame.set_axis([", ".join(map(str, filter(None, key))) for key in frame.columns], axis=1)
        index = frame.index.to_frame(index=False).astype(object).map(str)
        index.columns = names
        body = pd.concat([index, frame.reset_index(drop=True)], axis=1)
    else:
        depth, body = 0, frame
    right = [
        bool(len(body))
        and all(NUMBER.fullmatch(cell) or cell in ("", "–", "yes", "no") for cell in body.iloc[:, place])
        for place in range(body.shape[1])
    ]
    align = ["" if numbers else ' style="text-align:left"' for numbers in right]
    heads = "".join(
        f"<th{side}>{escape(str(name).replace('_', ' '))}</th>" if str(name) else "<td></td>"
        for name, side in zip(body.columns, align, strict=True)
    )
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    lines, above = [], None
    for row in body.itertuples(index=False, name=None):
        cells = []
        for place, (cell, side) in enumerate(zip(row, align, strict=True)):
            again = above is not None and place < depth - 1 and row[: place + 1] == above[: place + 1]
            tag = "th" if place < depth else "td"
            shade = ' style="text-align:left;opacity:.45"' if again and not right[place] else side
            cells.append(f"<{tag}{shade}>{_marked(cell)}</{tag}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
        above = row
    return f"<table>{said}<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _is_counter(index: pd.Index) -> bool:
    return isinstance(index, pd.RangeIndex) and index.name is None


def _written(frame: pd.DataFrame, percent_of: Iterable[str] | bool = (), points_of=(), digits: int = 2) -> pd.DataFrame:
    """The frame with every cell as text."""

    def chosen(names, column, values) -> bool:
        return pd.api.types.is_float_dtype(values) if names is True else column in (names or ())

    columns = {}
    for place, column in enumerate(frame.columns):
        values = frame.iloc[:, place]
        write: Callable = partial(number, digits=digits)
        if pd.api.types.is_bool_dtype(values):
            write = lambda cell: "yes" if cell is True or cell == True else "no"  # noqa: E712, E731
        elif chosen(percent_of, column, values):
            write = lambda cell: "–" if missing(cell) else f"{percent(cell)}%"  # noqa: E731
        elif chosen(points_of, column, values):
            write = in_points
        elif pd.api.types.is_integer_dtype(values):
            write = partial(number, digits=0)
        elif not pd.api.types.is_float_dtype(values):
            write = lambda cell: number(cell, digits) if isinstance(cell, float) else "" if missing(cell) else str(cell)  # noqa: E731
        columns[place] = [write(cell) for cell in values]
    return pd.DataFrame(columns, index=frame.index).set_axis(frame.columns, axis=1)


def _marked(cell: str) -> str:
    """A cell's text, escaped; what belongs together on one line, a verdict as a chip with its sign."""
    chip = CHIP.search(cell)
    text = escape(cell[: chip.start()] if chip else cell)
    if NUMBER.fullmatch(cell.strip()):
        return text.replace(" ", "\u00a0")
    text = TOGETHER.sub(lambda found: found[0].replace(" ", "\u00a0"), text)
    text = re.sub(r"(\d%?) \[", "\\1\u00a0[", text)
    if not chip:
        return text
    sign, back, ink = VERDICTS[chip[0]]
    style = f"background:{back};color:{ink};border-radius:9px;padding:0 7px;white-space:nowrap"
    return f'{text}<span style="{style}">{sign} {chip[0]}</span>'


# -- teaching.tables ----------
def _percent(value: float) -> str:
    """Whole percent; one decimal where that would hide on which side of zero a number lies."""
    if pd.isna(value):
        return "-"
    return f"{100 * value:.1f}" if 0.0005 <= abs(value) < 0.005 else str(round(100 * value))


def rate_table(rates: pd.DataFrame, rows: str | Sequence[str], columns: str | Sequence[str]) -> pd.DataFrame:
    """Rates as text, "17 [10, 24]" (percent, 95% interval), with one row per ``rows`` and one column per ``columns``.

    The order is that of first appearance in ``rates``.
    """
    cells = rates.assign(
        cell=[f"{_percent(r.value)} [{_percent(r.ci_low)}, {_percent(r.ci_high)}]" for r in rates.itertuples()]
    )
    wide = cells.pivot_table(index=rows, columns=columns, values="cell", aggfunc="first", sort=False)
    return wide.fillna("").rename_axis(columns=None)


def effect_table(effects: pd.DataFrame, rows: str | Sequence[str]) -> pd.DataFrame:
    """Differences as text: both sides in percent, the effect in points with its interval, prompts and clusters."""
    table = pd.DataFrame({
        "compared": [f"{e.condition} - {e.control}" for e in effects.itertuples()],
        "percent": [f"{_percent(e.value_a)} - {_percent(e.value_b)}" for e in effects.itertuples()],
        "points [95% interval]": [
            f"{_percent(e.effect)} [{_percent(e.ci_low)}, {_percent(e.ci_high)}]" for e in effects.itertuples()
        ],
        "prompts (clusters)": [f"{e.n} ({e.n_clusters})" for e in effects.itertuples()],
    })  # fmt: skip
    rows = [rows] if isinstance(rows, str) else list(rows)
    return pd.concat([effects[rows].reset_index(drop=True), table], axis=1).set_index(rows)


def sentence(effect: Mapping, what: str) -> str:
    """One sentence for a difference, true of its numbers whatever they are."""
    low, high = effect["ci_low"], effect["ci_high"]
    change = "rises" if low > 0 else "falls" if high < 0 else "shows no clear change"
    return (
        f"{what} {change}: {_percent(effect['value_b'])}% with {effect['control']}, "
        f"{_percent(effect['value_a'])}% with {effect['condition']}; difference {_percent(effect['effect'])} points, "
        f"95% interval {_percent(low)} to {_percent(high)}, "
        f"over {effect['n']} prompts in {effect['n_clusters']} clusters."
    )


def seed_table(rows: pd.DataFrame, claims: Sequence[str]) -> pd.DataFrame:
    """Ledger rows of whole claims, one line per model and seed: effect in points, interval, verdict."""
    from rimkit.ledger import claims_table

    table = claims_table(rows)
    table = table[table["claim"].isin(claims)]
    cells = [
        f"{_percent(r.effect)} [{_percent(r.effect_ci_low)}, {_percent(r.effect_ci_high)}] {r.verdict}"
        for r in table.itertuples()
    ]
    wide = table.assign(cell=cells).pivot_table(
        index=["model", "seed"], columns="claim", values="cell", aggfunc="first", sort=False
    )
    return wide.reindex(columns=[claim for claim in claims if claim in wide]).rename_axis(columns=None)


def predictor_table(pooled: pd.DataFrame, others: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of `rimkit.experiments.ras.correlations` as text, one line per predictor; "–": true by construction.

    ``others``: further tables of the same predictors ("beyond steps", ...), of which the correlation is shown.
    """
    table = pooled.set_index("predictor")

    def number(value: float, digits: int) -> str:
        return "–" if pd.isna(value) else f"{round(value, digits) + 0.0:.{digits}f}"

    columns = {"r": [number(value, 1) for value in table["value"]]}
    for name, other in others.items():
        kept = other.set_index("predictor").reindex(table.index)
        columns[name] = [number(r.value if pd.notna(r.p_value) else float("nan"), 1) for r in kept.itertuples()]
    columns["rank r"] = [number(value, 1) for value in table["spearman"]]
    for name, unit in (("without", "corpus"), ("models", "model")):
        ends = zip(table[f"{name}_min"], table[f"{name}_max"], strict=True)
        columns[f"less one {unit}"] = [f"{number(low, 1)} to {number(high, 1)}" for low, high in ends]
    for name, key in (("p", "p_value"), ("p Holm", "p_holm")):
        columns[name] = [number(value, 3) for value in table[key]]
    return pd.DataFrame(columns, index=table.index)


def examples(verdicts: pd.DataFrame, prompts: pd.DataFrame, n: int = 1) -> pd.DataFrame:
    """For reading: the first ``n`` replies of every mode that were refused, misaligned, misread or incoherent."""
    kinds = {
        "refused": verdicts["refused"], "misaligned": verdicts["misaligned"], "misread": verdicts["misread"],
        "incoherent": ~verdicts["coherent"],
    }  # fmt: skip
    parts = [
        group.head(n).assign(verdict=kind)
        for kind, mask in kinds.items()
        for _, group in verdicts[mask].groupby("mode", sort=False)
    ]
    shown = pd.concat(parts) if parts else verdicts.head(0).assign(verdict="")
    return replies(shown, prompts).assign(verdict=shown["verdict"].to_numpy())


def replies(table: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Requests (their ids, where the text is withheld), thoughts and replies side by side, for reading."""
    texts = prompts.set_index("prompt_id")["text"]
    requests = [redaction.label(texts.get(name), name) for name in table["prompt_id"]]
    return pd.DataFrame({
        "request": requests, "mode": table["mode"], "thought": table["thought"],
        "reply": table["reply"],
    }).set_index("request")  # fmt: skip


# -- teaching.neuron_tables ----------
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


# -- teaching.paper_tables ----------
NOBODY = "nobody"
UNITS = {"log_ras": " mean log ratio", "correlation": " in r"}  # of effects that are not rates


def misprints() -> pd.DataFrame:
    """The printed averages that do not follow from their rows."""
    table = recomputed()
    return table.loc[~table["follows"], ["location", "group", "quantity", "printed", "recomputed"]].set_index(
        "location"
    )


def averages_table(found: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.paper.statistics.averages` in points as text, one row per condition."""
    return pd.DataFrame({
        "mean [95% interval over models]": [f"{r.mean:.1f} [{r.ci_low:.1f}, {r.ci_high:.1f}]" for r in _rows(found)],
        "median": [f"{r.median:.1f}" for r in _rows(found)],
        "above zero": [f"{r.n_positive} of {r.n}" for r in _rows(found)],
        "mean with one model left out": [f"{r.without_one_low:.1f} to {r.without_one_high:.1f}" for r in _rows(found)],
        "changes most without": found["carried_by"].to_list(),
    }, index=found.index)  # fmt: skip


def correlations_table(found: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.paper.statistics.figure_8` as text, one row per panel."""
    return pd.DataFrame({
        "r [95% interval]": [f"{r.r:.2f} [{r.ci_low:.2f}, {r.ci_high:.2f}]" for r in _rows(found)],
        "permutation p": [p_value(r.p_permutation) for r in _rows(found)],
        "Spearman": [f"{r.spearman:.2f}" for r in _rows(found)],
        "r with one left out": [f"{r.without_one_low:.2f} to {r.without_one_high:.2f}" for r in _rows(found)],
        "different rates": [f"{r.n_distinct} of {r.n}" for r in _rows(found)],
        "range in prompts of 300": [f"{r.range_of_rates * HARM_BENCHMARK / 100:.0f}" for r in _rows(found)],
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
