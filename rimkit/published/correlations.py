"""Correlations from eight checkpoints: interval, permutation test, leave-one-out, ties, and the range in prompts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from rimkit.errors import UserError
from rimkit.published.tables import HARM_BENCHMARK, published

CHECKPOINTS = 8


class Correlation(NamedTuple):
    """Pearson's r of one predictor over the checkpoints of one training run."""

    r: float
    ci_low: float
    ci_high: float
    p_permutation: float  # two-sided: as large an |r| by relabelling; exact
    spearman: float
    without_one_low: float  # the smallest and the largest r with one checkpoint left out
    without_one_high: float
    n: int
    n_distinct: int  # different misalignment rates: fewer than n means ties
    range_in_prompts: float  # highest minus lowest rate, in prompts of 300


def correlation(values, misaligned_percent) -> Correlation:
    """Everything about one panel of Fig. 8. The interval is Fisher's (scipy), and takes checkpoints as independent.

    Checkpoints of one run are not: each starts where the last one stopped, so the interval is too narrow.

    Raises `UserError` for fewer than four checkpoints and where one side does not vary.
    """
    x, y = np.asarray(values, dtype=float), np.asarray(misaligned_percent, dtype=float)
    if len(x) != len(y) or len(x) < 4:
        raise UserError("a correlation needs at least four checkpoints, with a value and a rate each")
    if not (np.ptp(x) and np.ptp(y)):
        raise UserError("one side does not vary: there is no correlation")
    found = stats.pearsonr(x, y)
    interval = found.confidence_interval(0.95)
    left_out = [_r(np.delete(x, i), np.delete(y, i)) for i in range(len(x))]
    return Correlation(
        float(found.statistic), float(interval.low), float(interval.high), permutation_p(x, y),
        float(stats.spearmanr(x, y).statistic), float(np.nanmin(left_out)), float(np.nanmax(left_out)),
        len(x), len(np.unique(y)), float(np.ptp(y) * HARM_BENCHMARK / 100),
    )  # fmt: skip


def permutation_p(x, y) -> float:
    """Two-sided permutation p value of Pearson's r over all relabellings of up to nine checkpoints.

    Counts |r| as large as the observed one; scipy's "two-sided" doubles the smaller tail instead, which is not the
    same for a skewed null distribution. The p value holds if checkpoints could be exchanged when nothing relates the
    two sides; those of one run could not, since both sides drift as training goes on.
    """
    x, y = np.asarray(x, dtype=float), stats.zscore(np.asarray(y, dtype=float))
    if len(x) > 9:
        raise UserError(f"{len(x)} checkpoints have too many relabellings to try them all")

    def size(shuffled: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.abs((stats.zscore(shuffled, axis=axis) * y).mean(axis=axis))

    found = stats.permutation_test(
        (x,), size, permutation_type="pairings", alternative="greater", vectorized=True, n_resamples=np.inf
    )
    return float(found.pvalue)


def figure_8() -> pd.DataFrame:
    """`correlation` of every panel of Fig. 8: columns ``model, predictor`` and the fields of `Correlation`."""
    groups = published("fig8_ras_vs_misalignment").groupby(["model", "predictor"], sort=False)
    return pd.DataFrame([
        {"model": model, "predictor": predictor} | correlation(part["value"], part["misalignment_rate_pct"])._asdict()
        for (model, predictor), part in groups
    ])  # fmt: skip


def table_3() -> pd.DataFrame:
    """Table 3 with one row per predictor: r per model, ``average``, and the average without each model."""
    wide = published("table3_predictor_correlations").pivot_table(
        index="predictor", columns="model", values="pearson_r", sort=False
    )
    models = list(wide)
    without = {f"without {model}": wide.drop(columns=model).mean(axis=1) for model in models}
    return wide.assign(average=wide.mean(axis=1), **without).rename_axis(columns=None)


def interval_of_r(r: float, n: int = CHECKPOINTS) -> tuple[float, float]:
    """Fisher's 95% interval of a printed correlation over ``n`` checkpoints (scipy's, from r and n alone)."""
    found = stats.pearsonr(*_points_with(r, n)).confidence_interval(0.95)
    return float(found.low), float(found.high)


def _points_with(r: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Any ``n`` points whose correlation is ``r``: the interval depends on nothing else."""
    x = stats.zscore(np.arange(n, dtype=float))
    other = stats.zscore(x**2 - (x**2).mean())
    return x, r * x + np.sqrt(max(0.0, 1 - r**2)) * other


def _r(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.pearsonr(x, y).statistic) if np.ptp(x) and np.ptp(y) else float("nan")
