"""How well predictors of forgetting predict, over many tuned models (claims C9 and C10).

A point is one tuned model at one checkpoint. Points of one tuning, and of one corpus, resemble each other, so corpora
are drawn, left out and permuted as wholes. Scales differ between models (RAS has units of activation), so predictor and
outcome are standardised within each untuned model before they are pooled: the pooled correlation is the mean of the
models' own. *Beyond steps* also removes what the step of the checkpoint says, *beyond weights* what the distance of the
weights says: a predictor that only tells how far training has come is then worth nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rimkit.behavior.rates import holm, resample_weights, widened_percentiles
from rimkit.errors import UserError

OUTCOME = "change of misaligned, think"
RAS = "ras (safety)"
PREDICTORS = (
    RAS, "ras (gradient)", "ras (random)", "ras (all)", "fall", "rise", "arithmetic mean", "geometric mean",
    "KL on tuning data", "KL on safety prompts", "weights", "activation distance", "CKA ratio",
    "displacement (refusal)", "displacement (harm)", "steps",
)  # fmt: skip
MODEL = ["model", "seed"]
N_REPLIES = 92  # behind every rate of misalignment in the grid
RELIABLE = 0.5  # the share of an outcome's variance over points that must be more than noise


def as_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows of `rimkit.runs.entangling` as one row per point: ``model, seed, corpus, step`` and every measure.

    The interval of the outcome is in two more columns, named as `bounds` says.
    """
    parts = rows["condition"].astype(str).str.extract(r"^(?P<corpus>[^,]+), step (?P<step>\d+)$")
    table = rows.assign(**parts)
    ends = [
        table[table["metric"] == OUTCOME].assign(metric=name, value=lambda part, end=end: part[end])
        for name, end in zip(bounds(), ("ci_low", "ci_high"), strict=True)
    ]
    table = pd.concat([table, *ends]).dropna(subset=["corpus", "value"])
    table = table.assign(step=table["step"].astype(int))
    wide = table.pivot_table(index=[*MODEL, "corpus", "step"], columns="metric", values="value", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def bounds() -> tuple[str, str]:
    """The columns of `as_table` with the outcome's interval."""
    return f"{OUTCOME}, low", f"{OUTCOME}, high"


def variation(points: pd.DataFrame, n: int = N_REPLIES) -> pd.DataFrame:
    """One row per untuned model: ``model, seed, least, most`` (misaligned replies of ``n``)``, sd, noise, varies``.

    ``sd`` is the spread of the outcome over points, ``noise`` the standard error of a single change, from its interval.
    A model ``varies`` if more than `RELIABLE` of the variance is left without noise; standardising blows up the others.
    """
    low, high = bounds()
    rows = []
    for (model, seed), part in points.groupby(MODEL, sort=False, dropna=False):
        rate, sd = part["misaligned, think"], part[OUTCOME].std()
        noise = float(np.sqrt((((part[high] - part[low]) / (2 * 1.96)) ** 2).mean()))
        counts = {"least": round(rate.min() * n), "most": round(rate.max() * n)}
        varies = bool(sd > 0 and 1 - (noise / sd) ** 2 > RELIABLE)
        rows.append({"model": model, "seed": seed, **counts, "sd": sd, "noise": noise, "varies": varies})
    return pd.DataFrame(rows)


def varying(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the models whose outcome varies beyond its noise (`variation`)."""
    found = variation(points)
    return points.merge(found.loc[found["varies"], MODEL], on=MODEL)


def standardised(points: pd.DataFrame, column: str, beyond: str | None = None, ranks: bool = False) -> pd.Series:
    """A column with mean 0 and spread 1 within each model; constant ones become 0.

    ``beyond="steps"``: also with mean 0 at every step; with another column (``"weights"``): what a straight line
    through that column leaves. ``ranks`` takes ranks within the model first (Spearman).
    """
    by = [points[name] for name in MODEL]

    def centred(name: str) -> pd.Series:
        values = points[name].astype(float)
        values = values.groupby(by, dropna=False).rank() if ranks else values
        return values - values.groupby(by, dropna=False).transform("mean")

    values = whole = centred(column)
    if beyond == "steps":
        values = values - values.groupby([*by, points["step"]], dropna=False).transform("mean")
    elif beyond:
        other = centred(beyond)
        sums = [(other * x).groupby(by, dropna=False).transform("sum") for x in (values, other)]
        values = values - other * sums[0] / sums[1].where(sums[1] > 0, 1.0)
    spread, before = (x.groupby(by, dropna=False).transform("std", ddof=0) for x in (values, whole))
    return (values / spread.where(spread > 1e-9 * before)).fillna(0.0)


def _moments(x: np.ndarray, y: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums of ``1, x, y, xx, yy, xy`` per corpus: every weighted correlation is made of these."""
    return np.stack([np.bincount(codes, values) for values in (np.ones_like(x), x, y, x * x, y * y, x * y)], 1)


def _correlations(weights: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Pearson correlations under each row of corpus ``weights``; 0 where something is constant."""
    n, x, y, xx, yy, xy = (weights @ moments).T
    spread = np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
    return np.divide(xy / n - x * y / n**2, spread, out=np.zeros_like(n), where=spread > 1e-9)


def correlations(
    points: pd.DataFrame, predictors: Sequence[str] = PREDICTORS, outcome: str = OUTCOME, beyond: str | None = None,
    seed: int = 0, n_permutations: int = 1000,
) -> pd.DataFrame:  # fmt: skip
    """One row per predictor: ``predictor, value`` (Pearson)``, ci_low, ci_high, spearman, without_min, without_max,
    models_min, models_max, positive, models, p_value, p_holm, n``.

    The interval draws corpora again; ``without_...`` are the extremes when one corpus is left out, ``models_...`` when
    one untuned model is; ``positive`` of ``models`` have a correlation above 0. ``p_value`` permutes which corpus an
    outcome belongs to, at the same step and in the same model (missing where that changes nothing), ``p_holm`` is
    Holm's over the predictors. Models without a predictor do not count for it; one that no model has is left out.
    Raises ``UserError`` for fewer than three corpora.
    """
    if points["corpus"].nunique() < 3:
        raise UserError(f"correlations over corpora need at least three, here are {points['corpus'].nunique()}")
    rows, permuted = [], {}
    for predictor in predictors:
        here = points[points[predictor].notna()] if predictor in points else points.head(0)
        if here["corpus"].nunique() < 3:
            continue
        if len(here) not in permuted:  # the same for all predictors that the same points have
            permuted[len(here)] = _permuted(here, outcome, beyond, n_permutations, seed)
        rows.append({"predictor": predictor, **_correlation(here, predictor, outcome, beyond, seed)})
        x = standardised(here, predictor, beyond)
        by_step = [here[name] for name in (*MODEL, "step")]
        if (x.groupby(by_step, dropna=False).transform("std", ddof=0) > 1e-9).any():
            chance = np.abs(permuted[len(here)] @ x.to_numpy() / len(here))
            reached = (chance >= abs(rows[-1]["value"]) - 1e-12).sum()
            rows[-1]["p_value"] = (1 + reached) / (1 + n_permutations)
    found = pd.DataFrame(rows)
    found["p_value"] = found.get("p_value", pd.Series(np.nan, index=found.index))
    return found.assign(p_holm=holm(found["p_value"]))


def _correlation(points: pd.DataFrame, predictor: str, outcome: str, beyond: str | None, seed: int) -> dict:
    """The row of `correlations` for a predictor, without its p values."""
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    x, y, ranked_x, ranked_y = (
        standardised(points, name, beyond, ranks) for ranks in (False, True) for name in (predictor, outcome)
    )
    moments = _moments(x.to_numpy(), y.to_numpy(), codes)
    value = float(_correlations(np.ones((1, len(corpora))), moments)[0])
    draws = _correlations(resample_weights(len(corpora), seed), moments)
    low, high = widened_percentiles(draws, len(corpora), 0.95)
    without = _correlations(1.0 - np.eye(len(corpora)), moments)
    per_model = (x * y).groupby([points[name] for name in MODEL], dropna=False).agg(["sum", "size"])
    rest = per_model.sum() - per_model if len(per_model) > 1 else per_model
    others = rest["sum"] / rest["size"]
    return {
        "value": value, "ci_low": min(low, value), "ci_high": max(high, value),
        "spearman": float((ranked_x * ranked_y).mean()), "without_min": without.min(), "without_max": without.max(),
        "models_min": others.min(), "models_max": others.max(), "positive": int((per_model["sum"] > 1e-9).sum()),
        "models": len(per_model), "n": len(points),
    }  # fmt: skip


def by_model(points: pd.DataFrame, predictors: Sequence[str] = PREDICTORS, outcome: str = OUTCOME) -> pd.DataFrame:
    """The correlation in every untuned model: a row per predictor, a column per model ("rim-mini:0")."""
    names = points["model"].astype(str) + ":" + points["seed"].astype(str)
    products = {
        name: (standardised(points, name) * standardised(points, outcome)).groupby(names, sort=False).mean()
        for name in predictors
        if name in points
    }
    table = pd.DataFrame(products).T.rename_axis(index="predictor", columns="model")
    return table.where(pd.DataFrame({name: points[name].groupby(names).count() > 0 for name in products}).T)


def _permuted(points: pd.DataFrame, outcome: str, beyond: str | None, n: int, seed: int) -> np.ndarray:
    """``[n, points]``: outcomes with corpora exchanged as wholes; a point whose new corpus has none keeps its own."""
    y = standardised(points, outcome, beyond).to_numpy()
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    keys = list(zip(*(points[name].astype(str) for name in (*MODEL, "step")), strict=True))
    place = {(key, code): row for row, (key, code) in enumerate(zip(keys, codes, strict=True))}
    rng = np.random.default_rng(seed)
    found = np.empty((n, len(y)))
    for draw in range(n):
        order = rng.permutation(len(corpora))
        found[draw] = y[
            [place.get((key, order[code]), row) for row, (key, code) in enumerate(zip(keys, codes, strict=True))]
        ]
    return found


def for_scatter(points: pd.DataFrame, predictors: Sequence[str]) -> pd.DataFrame:
    """For a scatter of the last checkpoints: a row per tuning and predictor, with ``predictor, x, y, ci_low, ci_high``.

    Both axes are standardised within the untuned model, over all of its points; the interval is that of the paired
    change of misalignment, in the same unit.
    """
    by = [points[name] for name in MODEL]
    centre, spread = (
        points[OUTCOME].groupby(by, dropna=False).transform(how) for how in ("mean", lambda y: y.std(ddof=0))
    )
    low, high = ((points[name] - centre) / spread for name in bounds())
    last = points["step"] == points.groupby([*MODEL, "corpus"], dropna=False)["step"].transform("max")
    parts = [
        points.assign(
            predictor=name, x=standardised(points, name), y=standardised(points, OUTCOME), ci_low=low, ci_high=high
        )[last & points[name].notna()]
        for name in predictors
    ]
    return pd.concat(parts, ignore_index=True)
