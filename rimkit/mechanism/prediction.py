"""Claims C9 and C10: how well predictors of forgetting predict, over many tuned models.

A point is one tuned model at one checkpoint. Points of one tuning, and of one corpus, resemble each other, so corpora
are drawn, left out and permuted as wholes. Scales differ between models (RAS has units of activation), so predictor and
outcome are standardised within each untuned model before they are pooled. *Beyond steps* also removes what the step
of the checkpoint says: a predictor that only tells how far training has come is then worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rimkit.behavior.rates import resample_weights, widened_percentiles, wilson
from rimkit.errors import UserError
from rimkit.ledger import effect_row

OUTCOME = "change of misaligned, think"
RAS = "ras (safety)"
PREDICTORS = (
    RAS, "ras (gradient)", "ras (random)", "ras (all)", "fall", "rise", "arithmetic mean", "geometric mean",
    "KL on tuning data", "KL on safety prompts", "weights", "activation distance", "CKA ratio", "displacement", "steps",
)  # fmt: skip
MODEL = ["model", "seed"]


def as_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows of `rimkit.runs.entangling` as one row per point: ``model, seed, corpus, step`` and every measure."""
    parts = rows["condition"].astype(str).str.extract(r"^(?P<corpus>[^,]+), step (?P<step>\d+)$")
    table = rows.assign(**parts).dropna(subset=["corpus", "value"])
    table = table.assign(step=table["step"].astype(int))
    wide = table.pivot_table(index=[*MODEL, "corpus", "step"], columns="metric", values="value", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def standardised(points: pd.DataFrame, column: str, beyond_steps: bool = False, ranks: bool = False) -> pd.Series:
    """A column with mean 0 and spread 1 within each model; with ``beyond_steps``, also mean 0 at every step.

    ``ranks`` takes ranks within the model first (Spearman). Constant columns become 0.
    """
    by = [points[name] for name in MODEL]
    values = points[column].astype(float)
    if ranks:
        values = values.groupby(by, dropna=False).rank()
    if beyond_steps:
        values = values - values.groupby([*by, points["step"]], dropna=False).transform("mean")
    grouped = values.groupby(by, dropna=False)
    spread = grouped.transform("std", ddof=0)
    return ((values - grouped.transform("mean")) / spread.where(spread > 1e-12)).fillna(0.0)


def _moments(x: np.ndarray, y: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums of ``1, x, y, xx, yy, xy`` per corpus: every weighted correlation is made of these."""
    return np.stack([np.bincount(codes, values) for values in (np.ones_like(x), x, y, x * x, y * y, x * y)], 1)


def _correlations(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Pearson correlations under each row of corpus ``weights``; 0 where something is constant."""
    n, x, y, xx, yy, xy = (weights @ moments).T
    spread = np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
    return np.divide(xy / n - x * y / n**2, spread, out=np.zeros_like(n), where=spread > 1e-9)


def correlations(
    points: pd.DataFrame, predictors: Sequence[str] = PREDICTORS, outcome: str = OUTCOME, beyond_steps: bool = False,
    seed: int = 0, n_permutations: int = 1000,
) -> pd.DataFrame:  # fmt: skip
    """One row per predictor: ``predictor, value`` (Pearson)``, ci_low, ci_high, spearman, without_min, without_max,
    p_value, n``.

    The interval draws corpora again; ``without_min`` and ``without_max`` are the extremes when one corpus is left out;
    ``p_value`` permutes which corpus an outcome belongs to, at the same step and in the same model. Raises
    ``UserError`` for fewer than three corpora.
    """
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    if len(corpora) < 3:
        raise UserError(f"correlations over corpora need at least three of them, here are {len(corpora)}")
    y = {ranks: standardised(points, outcome, beyond_steps, ranks).to_numpy() for ranks in (False, True)}
    everyone, left_out = np.ones((1, len(corpora))), 1.0 - np.eye(len(corpora))
    permuted = _permuted(points, y[False], codes, len(corpora), n_permutations, seed)
    rows = []
    for predictor in predictors:
        x = {ranks: standardised(points, predictor, beyond_steps, ranks).to_numpy() for ranks in (False, True)}
        moments = _moments(x[False], y[False], codes)
        value = float(_correlations(everyone, moments)[0])
        low, high = widened_percentiles(
            _correlations(resample_weights(len(corpora), seed), moments), len(corpora), 0.95
        )
        without = _correlations(left_out, moments)
        chance = np.abs(permuted @ x[False] / len(points))
        rows.append({
            "predictor": predictor, "value": value, "ci_low": min(low, value), "ci_high": max(high, value),
            "spearman": float(_correlations(everyone, _moments(x[True], y[True], codes))[0]),
            "without_min": without.min(), "without_max": without.max(),
            "p_value": (1 + (chance >= abs(value) - 1e-12).sum()) / (1 + n_permutations), "n": len(points),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _permuted(points: pd.DataFrame, y: np.ndarray, codes: np.ndarray, groups: int, n: int, seed: int) -> np.ndarray:
    """``[n, points]``: outcomes with corpora exchanged as wholes; a point whose new corpus has none keeps its own."""
    keys = list(zip(*(points[name].astype(str) for name in (*MODEL, "step")), strict=True))
    place = {(key, code): row for row, (key, code) in enumerate(zip(keys, codes, strict=True))}
    rng = np.random.default_rng(seed)
    found = np.empty((n, len(y)))
    for draw in range(n):
        order = rng.permutation(groups)
        found[draw] = y[
            [place.get((key, order[code]), row) for row, (key, code) in enumerate(zip(keys, codes, strict=True))]
        ]
    return found


def difference(points: pd.DataFrame, a: str, b: str, outcome: str = OUTCOME, seed: int = 0) -> dict:
    """Correlation of predictor ``a`` minus that of ``b``, with the interval of corpora drawn again."""
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    y = standardised(points, outcome).to_numpy()
    moments = [_moments(standardised(points, name).to_numpy(), y, codes) for name in (a, b)]
    one, two = (float(_correlations(np.ones((1, len(corpora))), m)[0]) for m in moments)
    draws = np.subtract(*(_correlations(resample_weights(len(corpora), seed), m) for m in moments))
    low, high = widened_percentiles(draws, len(corpora), 0.95)
    return {"value_a": one, "value_b": two, "effect": one - two, "ci_low": min(low, one - two),
            "ci_high": max(high, one - two), "n": len(points), "condition": a, "control": b}  # fmt: skip


def log_ratio(points: pd.DataFrame, a: str = RAS, b: str = "ras (random)", seed: int = 0) -> dict:
    """Mean log of one RAS over another, corpora drawn again; points where one of them is 0 are left out."""
    kept = points[(points[a] > 0) & (points[b] > 0)]
    codes, corpora = pd.factorize(kept["corpus"], sort=True)
    logs = np.log(kept[[a, b]]).to_numpy()
    sums, sizes = (np.bincount(codes, values) for values in (logs[:, 0] - logs[:, 1], np.ones(len(kept))))
    weights = resample_weights(len(corpora), seed)
    low, high = widened_percentiles((weights @ sums) / (weights @ sizes), len(corpora), 0.95)
    one, two = logs.mean(0)
    return {"value_a": one, "value_b": two, "effect": one - two, "ci_low": min(low, one - two),
            "ci_high": max(high, one - two), "n": len(kept), "condition": a, "control": b}  # fmt: skip


def effort_against_careful(points: pd.DataFrame, column: str = RAS) -> dict:
    """Mean log RAS after effort-minimising minus careful chains, same steps, over untuned models (t interval)."""
    wide = points.assign(log=np.log(points[column].where(points[column] > 0))).pivot_table(
        index=[*MODEL, "step"], columns="corpus", values="log", dropna=False
    )
    pairs = wide[["multi-hop-effort", "multi-hop-careful"]].dropna().groupby(level=MODEL, dropna=False).mean()
    change = (pairs["multi-hop-effort"] - pairs["multi-hop-careful"]).to_numpy()
    reach = (
        stats.t.isf(0.025, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else np.nan
    )
    one, two = pairs.mean()
    effect = one - two
    return {"value_a": one, "value_b": two, "effect": effect, "ci_low": effect - reach, "ci_high": effect + reach,
            "n": len(change), "condition": "effort-minimising", "control": "careful"}  # fmt: skip


RIVALS = {"C10a": "KL on tuning data", "C10b": "ras (random)", "C10c": "rise"}


def claim_rows(points: pd.DataFrame, **values) -> list[dict]:
    """The rows of C9 (C9a per model and seed, C9b per organism) and C10 (per organism, its seeds pooled)."""
    rows = []
    for (model, seed), part in points.groupby(MODEL, sort=False):
        if part["corpus"].nunique() > 2:
            rows.append(effect_row("C9a", log_ratio(part), model=model, seed=int(seed), **values))
    for model, part in points.groupby("model", sort=False):
        pooled = {"model": model, "n_seeds": part["seed"].nunique(), **values}
        if {"multi-hop-effort", "multi-hop-careful"} <= set(part["corpus"]) and part["seed"].nunique() > 1:
            rows.append(effect_row("C9b", effort_against_careful(part), **pooled))
        if part["corpus"].nunique() > 2:
            rows += [effect_row(claim, difference(part, RAS, rival), **pooled) for claim, rival in RIVALS.items()]
    return rows


def with_intervals(points: pd.DataFrame, predictors: Sequence[str], n_clusters: int = 23) -> pd.DataFrame:
    """For a scatter: a row per point and predictor, with ``predictor, x`` (standardised)``, y`` and its interval.

    The interval of a point is Wilson's around its misalignment rate, each verb counted as one reply (conservative).
    """
    parts = []
    for predictor in predictors:
        bounds = [wilson(rate, n_clusters, 0.95) for rate in points["misaligned, think"]]
        shift = points["misaligned, think"] - points[OUTCOME]
        parts.append(points.assign(
            predictor=predictor, x=standardised(points, predictor), y=points[OUTCOME],
            ci_low=[low for low, _ in bounds] - shift, ci_high=[high for _, high in bounds] - shift,
        ))  # fmt: skip
    return pd.concat(parts, ignore_index=True)
