"""Tables and sentences to read: one renderer for every table, one form for every number.

Numbers are written as `rimkit.data` says. The functions below return DataFrames of text; `html`
shows any DataFrame, and `rimkit.teaching.setup.start` makes it the way of notebooks. `our_reading`
says what was found in words held to their numbers. Knows verdict rows and rates, no experiment.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from html import escape
from numbers import Integral, Real
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

from rimkit.behavior import redaction
from rimkit.behavior.stats import METRICS
from rimkit.data import UserError, data_dir, interval, missing, nearest, number, percent, truths
from rimkit.data import points as in_points
from rimkit.ledger import claims_table

CHIPS = {word: rest for word, *rest in pd.read_csv(data_dir() / "chips.csv").to_numpy()}
VERDICT = re.compile(r"(?:^|(?<= ))(supported|contradicted|small|no effect|undecided|not testable)$")
DIGITS = r"[-+−<>]?\s?\d[\d.,]*%?"
# Stays on one line:
INTERVAL = re.compile(rf"({DIGITS} )?\[[^\[\]]{{1,30}}\]|{DIGITS} to {DIGITS}|{DIGITS} \(\d+\)")
UNITS = {  # that are no points
    "log_ras": "mean log ratio", "correlation": "in r", "auroc": "AUROC",
    "moved": "share of requests", "attention": "share of attention"}  # fmt: skip
CI = ("ci_low", "ci_high")
KINDS = ["refused", "misaligned", "misread", "incoherent", "answers otherwise"]
MOST_ROWS, MOST_LETTERS = 150, 600
FORMS: dict[str, Callable[[Mapping], str]] = {
    "%": lambda row: f"{percent(row['effect'])}%", "points": lambda row: in_points(row["effect"]),
    "interval": lambda row: estimate(row), "count": lambda row: number(row["effect"], 0),
    ".1f": lambda row: number(row["effect"], 1), ".2f": lambda row: number(row["effect"], 2),
}  # fmt: skip
SHARES = {word: rest for word, *rest in pd.read_csv(data_dir() / "shares.csv").to_numpy()}
UNCLEAR = ("does not clearly change", "does not clearly differ")
CHANGES: dict[str, Callable[[float, float], bool]] = {  # over time or dose, and of two conditions
    **dict.fromkeys(["rises", "is higher", "lies above zero"], lambda low, high: low > 0),
    **dict.fromkeys(["falls", "is lower", "lies below zero"], lambda low, high: high < 0),
    **dict.fromkeys(UNCLEAR, lambda low, high: low <= 0 <= high),
}
MORE, LESS = ("higher", "wider", "longer"), ("lower", "narrower", "shorter")  # than another


def html(frame: pd.DataFrame) -> str:
    """A DataFrame as HTML, escaped: prose left, numbers right, verdicts as chips. An index stands
    in front; one of whole numbers without a name is left out. Only 150 rows are shown."""
    shown = table(frame.head(MOST_ROWS))
    if isinstance(shown.columns, pd.MultiIndex):
        shown.columns = [", ".join(filter(None, map(str, key))) for key in shown.columns]
    counts = frame.index.name is None and pd.api.types.is_integer_dtype(frame.index)
    depth = 0 if counts else frame.index.nlevels
    if depth:
        index = shown.index.to_frame(index=False).astype(object).map(_as_text)
        index.columns = [name or "" for name in shown.index.names]
        shown = pd.concat([index, shown.reset_index(drop=True)], axis=1)
    names = [str(name).replace("_", " ") for name in shown.columns]
    tags = ["th"] * depth + ["td"] * (len(names) - depth)
    columns = shown.to_numpy().T.tolist()
    sides = ["" if all(map(_is_number, texts)) else ' style="text-align:left"' for texts in columns]
    named = zip(sides, names, strict=True)
    lines = [[f"<th{side}>{escape(name)}</th>" if name else "<td></td>" for side, name in named]]
    for row in shown.to_numpy().tolist():
        cells = zip(tags, sides, row, names, strict=True)
        lines.append([f"<{tag}{side}>{_cell(text, name)}</{tag}>" for tag, side, text, name in cells])
    head, *body = (f"<tr>{''.join(line)}</tr>" for line in lines)
    more = f"<p>… and {len(frame) - MOST_ROWS} more rows</p>" if len(frame) > MOST_ROWS else ""
    return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>{more}"


def table(
    frame: pd.DataFrame, *, percent: Sequence[str] | bool = (), points: Sequence[str] = (), digits: int = 2
) -> pd.DataFrame:
    """The frame as text: shares as "30%", differences as "+12", other numbers with ``digits``.
    ``percent`` and ``points`` name columns; ``percent`` may be True, for every decimal number."""
    columns = {}
    for place, name in enumerate(frame.columns):
        values = frame.iloc[:, place]
        decimal = pd.api.types.is_float_dtype(values)
        whole = decimal and (values.dropna() % 1 == 0).all()
        write = partial(_as_text, digits=0 if whole else digits)
        if decimal if percent is True else name in percent:
            write = _with_sign
        elif name in points:
            write = in_points
        columns[place] = [write(cell) for cell in values]
    return pd.DataFrame(columns, index=frame.index).set_axis(frame.columns, axis=1)


def estimate(item: Mapping, value: str = "effect", write: Callable = in_points, ends: str = "ci") -> str:
    """A number with its interval, "+12 [+4, +20]"; ``ends``_low and _high hold the latter."""
    low, high = item.get(f"{ends}_low"), item.get(f"{ends}_high")
    return f"{write(item[value])} {interval(low, high, bare(write))}".strip()


def bare(write: Callable[[float], str]) -> Callable[[float], str]:
    """``write`` without the sign of percent."""
    return lambda number: write(number).removesuffix("%")


def wide(
    frame: pd.DataFrame, rows: str | Sequence[str], columns: str | Sequence[str],
    value: str = "value", *, ends: str = "ci", words: str = "",
) -> pd.DataFrame:  # fmt: skip
    """A row per ``rows``, a column per ``columns``, cells such as "17 [10, 24]". A ``value`` called
    "effect" is written in points, any other in percent; ``words`` names a column whose text
    follows. Without a number a cell holds the words alone."""
    kept, cells = frame if words else frame.dropna(subset=value), []
    write = in_points if value == "effect" else percent
    for item in kept.to_dict("records"):
        text = "" if missing(item[value]) else estimate(item, value, write, ends)
        cells.append(f"{text} {item[words] if words else ''}".strip())
    keys = [name for one in (rows, columns) for name in ([one] if isinstance(one, str) else one)]
    if (kept.groupby(keys)[value].nunique() > 1).any():
        raise UserError(f"several rows have one {', '.join(keys)}: take fewer rows or more columns")
    shape = {"index": rows, "columns": columns, "values": "cell", "aggfunc": "first", "sort": False}
    found = kept.assign(cell=cells).pivot_table(**shape)
    return found.fillna("").rename_axis(columns=[None] * found.columns.nlevels)


def effect_table(effects: pd.DataFrame, rows: str | Sequence[str]) -> pd.DataFrame:
    """Differences: both sides in percent, the effect in points, prompts and clusters."""
    shown = effects[rows := [rows] if isinstance(rows, str) else list(rows)].assign(**{
        "compared": effects["condition"] + " against " + effects["control"],
        "percent": effects["value_a"].map(percent) + " against " + effects["value_b"].map(percent),
        "points [95% interval]": [estimate(item) for item in effects.to_dict("records")],
        "prompts (clusters)": [f"{n} ({k})" for n, k in zip(effects["n"], effects["n_clusters"], strict=True)],
    })  # fmt: skip
    return shown.set_index(rows)


def sentence(effect: Mapping, what: str) -> str:
    """One sentence for a difference, true of its numbers whatever they are."""
    low, high = effect["ci_low"], effect["ci_high"]
    change = "is higher" if low > 0 else "is lower" if high < 0 else UNCLEAR[1]
    control = f"{percent(effect['value_b'])}% with {effect['control']}"
    condition = f"{percent(effect['value_a'])}% with {effect['condition']}"
    gap = f"{in_points(effect['effect'])} points, 95% interval {in_points(low)} to {in_points(high)}"
    over = f"{effect['n']} prompts in {effect['n_clusters']} clusters"
    return f"{what} {change}: {control}, {condition}; difference {gap}, over {over}."


def unit_of(metric: str) -> str:
    """The unit in which readers see effects on a metric: "points" for shares."""
    return "points" if metric in METRICS else UNITS.get(metric, metric.replace("_", " "))


def effect_writer(metric: str) -> Callable[[float], str]:
    """How an effect on a metric is written: in points with a decimal, or as a signed number."""
    return partial(in_points, digits=1) if unit_of(metric) == "points" else partial(number, signed=True)


def effect_text(item: Mapping, ends: str = "effect_ci") -> str:
    """A claim's effect on a ``metric``, "+12.3 points [+4.5, +20.1]"; empty without an interval."""
    unit, write = unit_of(item["metric"]), effect_writer(item["metric"])
    between = interval(item[f"{ends}_low"], item[f"{ends}_high"], write)
    return f"{write(item['effect'])} {unit} {between}" if between else ""


def verdict_table(judged: pd.DataFrame) -> pd.DataFrame:
    """`rimkit.ledger.claims_table` of one model to read: claim, change, verdict and why not."""
    shown = judged.assign(change=[effect_text(row) for row in judged.to_dict("records")])
    return shown.set_index("claim")[["statement", "change", "verdict", "why_not"]].fillna("")


def folded(frame: pd.DataFrame, words: str):
    """The table behind a fold, under ``words``."""
    from IPython.display import HTML

    return HTML(f"<details><summary>{escape(words)}</summary>{html(frame)}</details>")


def seed_table(rows: pd.DataFrame, claims: Sequence[str]) -> pd.DataFrame:
    """Effect, interval and verdict by model, seed and claim, of a ledger or `claims_table`. "(not
    +9)": the interval excludes the mean of the paper's models, which the claim's heading has, with
    their range. With fewer seeds than claims, a line per claim."""
    from rimkit.paper.reanalysis import effects, reanalysis  # only here: it takes a second

    judged = rows if "verdict" in rows else claims_table(rows)
    said = effects().groupby("claim")["effect"].agg(["min", "max"])
    said = reanalysis().set_index("claim")[["effect"]].join(said, how="right").map(in_points)
    kept = judged[judged["claim"].isin(claims)].astype({"seed": object}).fillna({"seed": "–"})
    other = kept["claim"].map(said["effect"]).map("(not\u00a0{}) ".format)
    kept = kept.assign(said=other.where(kept["excludes_paper"].eq(True), "") + kept["verdict"])
    found = wide(kept, ["model", "seed"], "claim", "effect", ends="effect_ci", words="said")
    head = "{} (paper: mean {}, models {} to {})".format
    names = {ends[0]: head(*ends) for ends in said.itertuples()}
    found = found[[claim for claim in claims if claim in found]].rename(columns=names)
    return found.T.rename_axis("claim") if len(found) < len(found.columns) else found


def named(table: pd.DataFrame) -> pd.Series:
    """Each row's model and seed as one name: "rim-mini:0"."""
    return table["model"] + ":" + table["seed"].astype(str)


def with_roles(rates: pd.DataFrame) -> pd.DataFrame:
    """Rates by condition for dots: the ``role`` "random" is that of single sets, without intervals."""
    role = rates["condition"].str.partition(" ")[0]
    ends = rates[[*CI]].where(role != "random")
    return rates.assign(role=role, **ends)[["role", "condition", "metric", "value", *CI]]


def examples(judged: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """The first reply of each verdict and mode, for reading."""
    said = with_outcomes(judged)
    firsts = [said[said[kind]].drop_duplicates("mode").assign(verdict=kind) for kind in KINDS]
    return replies(pd.concat(firsts), prompts)


def disputed(judged: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """The replies of which judges do not all say the same, a row each: what every judge says."""
    from rimkit.behavior.agreement import divided  # brings torch

    said = with_outcomes(divided(judged))
    held = [truths(said[kind]).to_numpy(bool, na_value=False) for kind in KINDS]
    shown = replies(said.assign(verdict=np.select(held, KINDS, "–")), prompts).reset_index()
    keys = ["request", *shown.columns.drop(["request", "verdict"]), "judge"]
    found = shown.assign(judge=list(said["judge"])).drop_duplicates(keys).set_index(keys)["verdict"]
    return found.unstack(sort=False).reset_index().set_index("request").rename_axis(columns=None)


def with_outcomes(judged: pd.DataFrame) -> pd.DataFrame:
    """Judged replies with ``incoherent``, and ``answers otherwise``: coherent, and nothing else."""
    coherent = truths(judged["coherent"])
    named = judged[["refused", "misaligned", "misread"]].apply(truths).fillna(False).any(axis=1)
    return judged.assign(incoherent=~coherent, **{"answers otherwise": coherent & ~named})


def replies(found: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Requests (or their ids, where the text is withheld), thoughts and replies side by side."""
    texts = prompts.set_index("prompt_id")["text"]
    asked = pd.Index([redaction.label(texts.get(name), name) for name in found["prompt_id"]], name="request")
    return found.filter(["mode", "thought", "reply", "verdict"]).set_index(asked)


def _is_number(text: str) -> bool:
    return not re.sub(rf"{INTERVAL.pattern}|^{DIGITS}$|\([a-z ]+\)$", "", text).strip(" –")


def _with_sign(share) -> str:
    return "–" if missing(share) else f"{percent(share)}%"


def _as_text(cell, digits: int = 2) -> str:
    if isinstance(cell, str) or missing(cell):
        return cell if isinstance(cell, str) else "–"
    if isinstance(cell, bool | np.bool_):
        return "yes" if cell else "no"
    return number(cell, digits if not isinstance(cell, Integral) else 0) if isinstance(cell, Real) else str(cell)


def _cell(text: str, column: str) -> str:
    """A cell's text, escaped and cut; a verdict as a chip with its sign, several on a line each."""
    if len(parts := text.split(", ")) > 1 and all(map(VERDICT.search, parts)):
        return "<br>".join(_cell(part, column) for part in parts)
    text = text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} …"
    found = VERDICT.search(text)
    word = found[1] if found else text if column == "verdict" and text in CHIPS else ""
    before = INTERVAL.sub(lambda part: part[0].replace(" ", "\u00a0"), escape(text.removesuffix(word)))
    before = before.replace("no-think", '<span style="white-space:nowrap">no-think</span>')
    if not word:
        return before
    sign, back, ink = CHIPS[word]
    style = f"background:{back};color:{ink};border-radius:9px;padding:0 7px;white-space:nowrap"
    return f'{before}<span style="{style}">{sign} {word}</span>'


# Folded where a learner guesses first; open, with no triangle, in print and in pages of nbconvert.
FOLDED, OPEN = "<details class=reading>", "<details class=reading open>"
SEEN = "details.reading{&::details-content,summary{content-visibility:visible;height:auto;list-style:none}}"
EDGE = ":where(details.reading){border-left:3px solid #3b6ea8;padding-left:.8rem}.jp-OutputPrompt:empty{padding:0 6px}"
STYLE = f"<style>{EDGE}body.jp-Notebook {SEEN}@media print{{{SEEN}}}</style>"


@dataclass(frozen=True)
class Reading:
    """A folded box in a notebook, its text in a terminal."""

    text: str

    def __repr__(self) -> str:
        return f"Our reading: {self.text}"

    def _repr_html_(self) -> str:
        paragraphs = "".join(f"<p>{escape(part)}</p>" for part in self.text.split("\n\n"))
        return f"{STYLE}{FOLDED}<summary><b>Our reading</b></summary>{paragraphs}</details>"


class WordsAndNumbers(Exception):
    """A claim that its number does not bear out."""


def our_reading(study, text: str, otherwise: str = "", of: str = "rim-mini", **values: Any) -> Reading | None:
    """The text with its numbers, folded, for the embedded model ``of``; ``otherwise`` for any
    other. ``{rate:%}``, ``{change:points}``, ``{change:interval}``, ``{n:count}``, ``{r:.1f}`` and
    ``{r:.2f}`` print a number. A field with words in place of a form, such as ``{rate:about
    half}``, ``{gap:is higher}`` or ``{a:wider than b}``, prints the words and is a claim: where the
    number does not bear it out, ``otherwise`` stands alone on the embedded model too. Shares and
    differences are fractions; one with an interval is a row or a mapping with ``effect`` (or
    ``value``), ``ci_low``, ``ci_high``. Raises `UserError` for unknown values and words."""
    if study.name.partition(":")[0] == of:
        with suppress(WordsAndNumbers):
            return Reading(filled(text, values))
    return Reading(filled(otherwise, values)) if otherwise else None


def filled(text: str, values: Mapping[str, Any]) -> str:
    """The template with its numbers; raises `WordsAndNumbers` for a claim that is not borne out."""
    rows = {name: _row(value) for name, value in values.items()}
    lines = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    parts = [before + ("" if name is None else _field(name, words, rows))
             for before, name, words, _ in Formatter().parse(lines)]  # fmt: skip
    return re.sub(r"\b(rises|falls|higher|lower) by [+−]", r"\1 by ", "".join(parts).strip())


def _row(value: Any) -> Mapping:
    """A bare number as a row; an ``effect`` that is missing is the ``value``; ends as well."""
    row = dict(value) if hasattr(value, "keys") else {"effect": value}
    ends = {name: row[f"effect_{name}"] for name in CI if f"effect_{name}" in row}
    row = {"effect": row.get("value"), **row, **ends}
    return {name: np.nan if value is pd.NA else value for name, value in row.items()}


def _field(name: str, words: str, rows: Mapping[str, Mapping]) -> str:
    if name not in rows:
        raise UserError(f"the reading has no value '{name}'{nearest(name, rows)}")
    row, (relation, _, other) = rows[name], words.partition(" than ")
    size = float(row["effect"])
    if words in FORMS:
        return FORMS[words](row)
    if words in SHARES:
        true = SHARES[words][0] <= size <= SHARES[words][1]
    elif words in CHANGES:
        true = CHANGES[words](row["ci_low"], row["ci_high"])
    elif relation in (*MORE, *LESS) and other in rows:
        true = (size - rows[other]["effect"]) * (1 if relation in MORE else -1) > 0
        words = relation
    else:
        known = [*FORMS, *SHARES, *CHANGES]
        raise UserError(f"'{words}' is neither a form nor a known claim ({', '.join(known)}){nearest(words, known)}")
    if not true:
        raise WordsAndNumbers(f"{name} is {size:.4g}, which is not '{words}'")
    return words
