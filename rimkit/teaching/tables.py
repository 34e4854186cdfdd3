"""Tables and sentences for readers: whole percents, always with their interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from rimkit.behavior import redaction


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
    """Rows of `rimkit.mechanism.prediction.correlations` as text, one line per predictor; "–": true by construction.

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
