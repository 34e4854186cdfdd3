"""The published numbers held against every claim: ledger rows, and one verdict per claim.

A claim is judged by the mean over the paper's models with a t interval over models (``n`` counts models), since the
question is whether it would hold for another one; rows for single models carry Newcombe's interval over prompts where
the paper's rates allow one. The rule of the verdict is that of the ledger, claim by claim. The rows have the model
`PUBLISHED` and the condition `OVER_MODELS`, not "all": the published numbers are no model under study and enter no
table of verdicts and no correction beside those that are. `reanalysis` says what a correction would change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pandas as pd

from rimkit.behavior.stats import holm
from rimkit.ledger import claims, row, verdict
from rimkit.paper.statistics import average, denominators, gap, think_mode
from rimkit.paper.tables import HARM_BENCHMARK, by_model, injected, published

PUBLISHED = "published numbers"
OVER_MODELS = "mean over models"
PATTERNS = {"C2c": "confirmatory reasoning", "C2d": "heuristic reliance", "C2e": "instruction deviation"}
RIVALS = {"C10a": "KL divergence", "C10b": "RAS (random neurons)", "C10c": "delta_math only",
          "Q3a": "Arithmetic mean of the deltas", "Q3b": "Geometric mean of the deltas"}  # fmt: skip


def rows(**values) -> list[dict]:
    """Ledger rows of every claim that the published numbers can be held against; ``values`` go into each."""
    known = list(claims()["id"])
    return [found for claim in known if claim in SIDES for found in _rows_of(claim, values)]


def sides(claim: str) -> pd.DataFrame:
    """What the paper compares for a claim, one row per model: ``value, control_value, ci_low, ci_high, n``.

    In the unit of the claim's metric (rates and changes of rates as fractions); intervals are those of the difference
    over prompts, empty where the paper gives no rate to make one from.
    """
    return _sides(claim).copy()


@lru_cache
def _sides(claim: str) -> pd.DataFrame:
    return SIDES[claim]().reindex(columns=["value", "control_value", "ci_low", "ci_high", "n"])


def over_models(claim: str) -> pd.Series:
    """Value minus control per model, the numbers behind the verdict on a claim."""
    table = sides(claim)
    return table["value"] - table["control_value"]


def reanalysis() -> pd.DataFrame:
    """One row per claim of ``data/claims.csv``, in its order.

    Columns: ``claim, effect, ci_low, ci_high`` (mean over models of value minus control, unit of the metric)``,
    n_models, p_value`` (t test)``, p_holm`` (over the primary claims that can be judged)``, verdict``. Effect and
    verdict are missing where the paper does not report the claim's metric, the interval where one model was measured.
    """
    return _reanalysis().copy()


@lru_cache
def _reanalysis() -> pd.DataFrame:
    table = pd.DataFrame([_judged(entry) for entry in claims().itertuples()])
    judged = table["verdict"].notna() & claims()["primary"]
    table.loc[judged, "p_holm"] = holm(table.loc[judged, "p_value"])
    return table


def after_correction() -> str:
    """One sentence: what would be left of the verdicts after a correction for their number."""
    table = reanalysis()
    judged = table[table["p_holm"].notna()]
    clear = judged.loc[judged["verdict"].isin(["supported", "contradicted"]), "claim"]
    left, n = judged.loc[judged["p_holm"] < 0.05, "claim"], len(judged)
    return (
        f"Of {n} primary claims with published numbers {len(clear)} have an interval over models that excludes zero "
        f"({', '.join(clear)}); after Holm’s correction for {n} tests it would be {', '.join(left) or 'none'}."
    )


def _judged(entry) -> dict:
    blank = dict.fromkeys(("effect", "ci_low", "ci_high", "p_value", "p_holm"), np.nan)
    found = {"claim": entry.id, **blank, "n_models": 0, "verdict": None}
    if entry.id not in SIDES:
        return found
    changes = over_models(entry.id)
    if len(changes) == 1:
        return {**found, "effect": float(changes.iloc[0]), "n_models": 1}
    mean = average(changes)
    numbers = {"effect": mean.mean, "ci_low": mean.ci_low, "ci_high": mean.ci_high}
    word = verdict(*numbers.values(), entry.direction, entry.smallest_effect)
    return {**found, **numbers, "n_models": mean.n, "p_value": mean.p_value, "verdict": word}


def _rows_of(claim: str, values: dict) -> list[dict]:
    table = sides(claim)
    common = {"model": PUBLISHED, "n_seeds": None, **values}
    found = []
    for model, part in table.iterrows():
        interval = {"effect_ci_low": part["ci_low"], "effect_ci_high": part["ci_high"]}
        numbers = {name: float(part[name]) for name in ("value", "control_value")}
        effect = numbers["value"] - numbers["control_value"]
        n = None if np.isnan(part["n"]) else int(part["n"])
        found.append(row(claim, condition=str(model), effect=effect, n=n, **numbers, **interval, **common))
    if len(table) > 1:
        mean = average(table["value"] - table["control_value"])
        numbers = {name: float(table[name].mean()) for name in ("value", "control_value")}
        interval = {"effect_ci_low": mean.ci_low, "effect_ci_high": mean.ci_high}
        found.append(row(claim, condition=OVER_MODELS, effect=mean.mean, n=mean.n, **numbers, **interval, **common))
    return found


# -- where each comparison stands in the paper ---------------------------------------------------------


def _thinking(metric: str) -> pd.DataFrame:
    return think_mode().query("metric == @metric").set_index("model")


def _pattern(pattern: str) -> pd.DataFrame:
    """One of Tables A2-A4: effort-minimising against careful sentences, with intervals over prompts."""
    table = injected().query("pattern == @pattern").set_index("model")
    found = {
        model: gap(*part[["target", "control"]], *(denominators(rate, HARM_BENCHMARK)[0] for rate in
                   part[["target", "control"]]))._asdict()
        for model, part in table.iterrows()
    }  # fmt: skip
    return pd.DataFrame(found).T


def _patterns() -> pd.DataFrame:
    """The mean of Tables A2-A4 per model."""
    means = injected().groupby("model", sort=False)[["target", "control"]].mean() / 100
    return means.rename(columns={"target": "value", "control": "control_value"})


def uninjected() -> pd.DataFrame:
    """Effort-minimising sentences against thinking as usual (Table 1), for the two models with both.

    The sentence is put into the thought, so that think mode is the comparison; value: mean of the three patterns.
    """
    thinking = by_model("table1_think_mode", "think", "misalignment_rate_pct")["on"] / 100
    return _patterns().assign(control_value=thinking).dropna()


def _change(training_set: str, control: str | None = None, name: str = "table2_finetuning_delta") -> pd.DataFrame:
    """Change of the misalignment rate after tuning on one set, against another or against none."""
    wide = by_model(name, "training_set", "delta_misalignment_points") / 100
    return pd.DataFrame({"value": wide[training_set], "control_value": wide[control] if control else 0.0})


def _neurons(column: str, sign: int) -> pd.DataFrame:
    wide = sign * by_model("fig6_neuron_ablation", "neurons", column) / 100
    return pd.DataFrame({"value": wide["safety-critical"], "control_value": wide["random"]})


def _ras_of_neurons() -> pd.DataFrame:
    """Fig. 8: the one model drawn with both kinds of neurons, mean log RAS over its eight checkpoints."""
    points = published("fig8_ras_vs_misalignment").query("model == 'Qwen3-4B'")
    means = np.log(points["value"]).groupby(points["predictor"]).mean()
    both = {"value": means["RAS (safety neurons)"], "control_value": means["RAS (random neurons)"]}
    return pd.DataFrame(both, index=["Qwen3-4B"])


def _ras_of_chains() -> pd.DataFrame:
    wide = np.log(by_model("fig7_ras_control_target", "training_set", "ras"))
    return pd.DataFrame({"value": wide["GSM8K(L)-target"], "control_value": wide["GSM8K(L)-control"]})


def _predictors(rival: str) -> pd.DataFrame:
    wide = by_model("table3_predictor_correlations", "predictor", "pearson_r")
    return pd.DataFrame({"value": wide["RAS (safety neurons)"], "control_value": wide[rival]})


def _literal(claim: str) -> pd.DataFrame:
    name = "table_a7_literal_control"
    return _change("GSM8K", "GSM8K-Literal", name) if claim == "C7a" else _change("GSM8K-Literal", None, name)


SIDES: dict[str, Callable[[], pd.DataFrame]] = {
    "C1a": lambda: _thinking("misaligned"),
    "C1b": lambda: _thinking("score"),
    "C2a": _patterns,
    "C2b": uninjected,
    **{claim: lambda pattern=pattern: _pattern(pattern) for claim, pattern in PATTERNS.items()},
    "C6a": lambda: _change("GSM8K"),
    "C6b": lambda: _change("GSM8K", "MATH401"),
    "C6c": lambda: _change("GSM8K(L)-target", "GSM8K(L)-control"),
    "C7a": lambda: _literal("C7a"),
    "C7b": lambda: _literal("C7b"),
    "C8a": lambda: _neurons("delta_misalignment_points", 1),
    "C8b": lambda: _neurons("math_drop_points", -1),
    "C9a": _ras_of_neurons,
    "C9b": _ras_of_chains,
    **{claim: lambda rival=rival: _predictors(rival) for claim, rival in RIVALS.items()},
}
