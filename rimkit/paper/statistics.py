"""The statistics of printed numbers: counts, averages over models, few checkpoints, power.

Nothing here reads the paper's tables; `reanalysis` applies it to them. An average is one over
models, each measured once, so its interval says how far it would carry over to other models. Power
is that of a two-sided test of two rates, whose noise has three parts: which prompts were asked
(shrinks with prompts), which seed was trained and what the judge said this time (both shrink with
seeds, since every seed is judged anew). The estimators are scipy's and statsmodels'.
"""

from collections.abc import Mapping
from math import ceil, inf, sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.power import normal_power
from statsmodels.stats.proportion import confint_proportions_2indep

from rimkit.behavior.stats import exact_test
from rimkit.data import UserError

LEVEL = 0.95
POWER = 0.8  # chance of a clear result that is usually asked for
# Of a rate judged again: 0.0035 to 0.0052 in Zhao et al. 2026 (arXiv 2608.23497), another judge.
JUDGE_SD = 0.005
# Of a rate between training seeds: nothing is published; a guess to be replaced by your own.
SEED_SD = 0.02


def denominators(percent: float, largest: int) -> list[int]:
    """All n up to ``largest``, from the top, of which some k is ``percent`` with two digits."""
    n = np.arange(largest, 0, -1)
    k = np.round(percent * n / 100)
    fits = np.abs(100 * k / n - percent) <= 0.005 + 1e-9
    return n[fits & (k <= n)].tolist()


def gap(percent: float, control_percent: float, n: int, control_n: int) -> dict[str, float]:
    """The difference of two printed rates with Newcombe's 95% interval, for independent prompts.
    ``value, control_value, effect, ci_low, ci_high`` as fractions, and ``n``, both groups together.
    The same prompts stand behind both, but only counts are printed: pairs would be sharper."""
    k, control_k = round(percent * n / 100), round(control_percent * control_n / 100)
    low, high = confint_proportions_2indep(k, n, control_k, control_n, method="newcomb")
    sides = {"value": k / n, "control_value": control_k / control_n, "effect": k / n - control_k / control_n}
    return sides | {"ci_low": float(low), "ci_high": float(high), "n": n + control_n}


def exact_power(rate: float, control_rate: float, n: int) -> float:
    """Chance that Fisher's exact test of ``n`` against ``n`` prompts finds the difference."""
    k = np.arange(n + 1)
    chance = np.outer(stats.binom.pmf(k, n, rate), stats.binom.pmf(k, n, control_rate))
    likely = np.argwhere(chance > 1e-9)  # the rest cannot change the result
    return float(sum(chance[a, b] for a, b in likely if exact_test(a, n, b, n) < 1 - LEVEL))


def exact_prompts_needed(rate: float, control_rate: float, level: float = 1 - LEVEL) -> float:
    """Prompts per condition with which Fisher's exact test has a power of `POWER`: those of the
    normal test with the correction of Casagrande, Pike and Smith (1978)."""
    distance = abs(rate - control_rate)
    if not distance:
        return inf
    normal = (reach(level) * standard_error(rate, control_rate, 1) / distance) ** 2
    return float(ceil(normal / 4 * (1 + sqrt(1 + 4 / (normal * distance))) ** 2))


def reach(level: float = 1 - LEVEL) -> float:
    """How many standard errors an effect must have for a power of `POWER`."""
    return float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER))


def models_needed(effects, level: float = 1 - LEVEL) -> float:
    """Models for a power of `POWER` of a t test, given mean and spread of ``effects``."""
    size = abs(np.mean(effects)) / np.std(effects, ddof=1)
    tries = ((n, stats.t.isf(level / 2, n - 1)) for n in range(2, 1001))
    found = (n for n, limit in tries if stats.nct.sf(limit, n - 1, size * sqrt(n)) >= POWER)
    return float(next(found, inf))


class Average(NamedTuple):
    """A mean over models with its 95% t interval and the ways in which it can mislead."""

    mean: float
    ci_low: float
    ci_high: float
    median: float
    without_one_low: float  # the smallest and the largest mean with one model left out
    without_one_high: float
    carried_by: str  # the model without which the mean changes most
    n_positive: int
    n: int
    p_value: float  # two-sided t test of a mean of zero


def average(values: pd.Series | Mapping[str, float]) -> Average:
    """Mean, median and leave-one-out of one number per model, in the unit of ``values``."""
    values = pd.Series(values, dtype=float).dropna()
    if len(values) < 2:
        raise UserError("an average over models needs at least two of them")
    mean, n = float(values.mean()), len(values)
    low, high, p_value = mean, mean, float(not mean)
    if np.ptp(values):
        test = stats.ttest_1samp(values, 0)
        (low, high), p_value = map(float, test.confidence_interval(LEVEL)), float(test.pvalue)
    left_out = (values.sum() - values) / (n - 1)
    found = mean, low, high, float(values.median()), float(left_out.min()), float(left_out.max())
    carried_by, n_positive = str((left_out - mean).abs().idxmax()), int((values > 0).sum())
    return Average(*found, carried_by, n_positive, n, p_value)


def averages(table: pd.DataFrame, by: str, value: str) -> pd.DataFrame:
    """`average` of the column ``value`` over the column ``model``, one row per ``by``."""
    parts = table.set_index("model").groupby(by, sort=False)[value]
    return pd.DataFrame({name: average(part)._asdict() for name, part in parts}).T.rename_axis(by)


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
    n_distinct: int  # different rates: fewer than n means ties
    range_of_rates: float  # highest minus lowest, in percentage points


def correlation(values, percent) -> Correlation:
    """Everything about a predictor's ``values`` and the rates of the same checkpoints. The interval
    is Fisher's, and takes checkpoints as independent. Those of one run are not (each starts where
    the last one stopped), so that it is too narrow."""
    x, y = np.asarray(values, dtype=float), np.asarray(percent, dtype=float)
    if len(x) != len(y) or len(x) < 4:
        raise UserError("a correlation needs at least four checkpoints, with a value and a rate each")
    if not (np.ptp(x) and np.ptp(y)):
        raise UserError("one side does not vary: there is no correlation")
    r, rank = float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic)
    others = [(np.delete(x, place), np.delete(y, place)) for place in range(len(x))]
    without = [float(stats.pearsonr(*pair).statistic) for pair in others if all(map(np.ptp, pair))]
    found = r, *interval_of_r(r, len(x)), permutation_p(x, y), rank, min(without), max(without)
    return Correlation(*found, len(x), len(np.unique(y)), float(np.ptp(y)))


def interval_of_r(r: float, n: int) -> tuple[float, float]:
    """Fisher's 95% interval of a correlation over ``n`` points, from the two numbers alone."""
    with np.errstate(divide="ignore"):  # the interval of |r| = 1 has no width
        middle, half = np.arctanh(np.clip(r, -1, 1)), stats.norm.ppf((1 + LEVEL) / 2) / sqrt(n - 3)
    return float(np.tanh(middle - half)), float(np.tanh(middle + half))


def permutation_p(x, y) -> float:
    """Two-sided permutation p value of Pearson's r over all relabellings of up to nine checkpoints.
    Counts |r| as large as the observed one; scipy's "two-sided" doubles the smaller tail instead.
    It holds if checkpoints could be exchanged; those of one run could not, since both drift."""
    x, y = np.asarray(x, dtype=float), stats.zscore(np.asarray(y, dtype=float))
    if len(x) > 9:
        raise UserError(f"{len(x)} checkpoints have too many relabellings to try them all")

    def size(shuffled: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.abs((stats.zscore(shuffled, axis=axis) * y).mean(axis=axis))

    how = {"permutation_type": "pairings", "alternative": "greater", "vectorized": True}
    return float(stats.permutation_test((x,), size, n_resamples=np.inf, **how).pvalue)


def dependent_p(r: float, other_r: float, between: float, n: int) -> float:
    """Two-sided p of Williams' test (Steiger 1980) that two predictors of one outcome, over the
    same ``n`` points, do equally well; ``between``: how they correlate with each other."""
    left = 1 - r**2 - other_r**2 - between**2 + 2 * r * other_r * between
    spread = 2 * left * (n - 1) / (n - 3) + ((r + other_r) / 2) ** 2 * (1 - between) ** 3
    return float(2 * stats.t.sf(abs(r - other_r) * sqrt((n - 1) * (1 + between) / spread), n - 3))


def standard_error(
    rate: float, control_rate: float, n_prompts: int, n_seeds: int = 1, judge_sd: float = 0.0, seed_sd: float = 0.0
) -> float:
    """Of the difference of two rates (fractions), each over so many prompts and seeds, which share
    the prompts. Takes the rates as independent; with the same prompts in both it is smaller."""
    if not (0 <= rate <= 1 and 0 <= control_rate <= 1):
        raise UserError(f"rates are fractions from 0 to 1, not {rate:g} and {control_rate:g}")
    if min(n_prompts, n_seeds) < 1:
        raise UserError("a design has at least one prompt and one seed")
    if min(judge_sd, seed_sd) < 0:
        raise UserError("a standard deviation is not negative")
    prompts = (rate * (1 - rate) + control_rate * (1 - control_rate)) / n_prompts
    return sqrt(prompts + 2 * (judge_sd**2 + seed_sd**2) / n_seeds)


def power(
    rate: float, control_rate: float, n_prompts: int, n_seeds: int = 1, judge_sd: float = 0.0, seed_sd: float = 0.0
) -> float:
    """Chance that the interval of the difference excludes zero if the rates are what they seem."""
    error = standard_error(rate, control_rate, n_prompts, n_seeds, judge_sd, seed_sd)
    if not error:
        return float(rate != control_rate)
    return float(normal_power(abs(rate - control_rate), nobs=1, alpha=1 - LEVEL, sigma=error))


def prompts_needed(rate: float, control_rate: float, judge_sd=0.0, seed_sd=0.0, level: float = 1 - LEVEL) -> float:
    """Prompts per condition for a power of `POWER`; ``inf`` where judge and seed are too noisy."""
    noise = standard_error(0, 0, 1, judge_sd=judge_sd, seed_sd=seed_sd)
    return _enough(rate - control_rate, standard_error(rate, control_rate, 1), noise, level)


def seeds_needed(rate: float, control_rate: float, n_prompts: int, seed_sd: float = SEED_SD) -> float:
    """Seeds per condition for that power; ``inf`` where ``n_prompts`` prompts are too few."""
    one_seed = standard_error(0, 0, 1, judge_sd=JUDGE_SD, seed_sd=seed_sd)
    return max(1.0, _enough(rate - control_rate, one_seed, standard_error(rate, control_rate, n_prompts)))


def _enough(difference: float, one: float, rest: float, level: float = 1 - LEVEL) -> float:
    """How many units with the error ``one`` each reach the power, beside an error that stays."""
    allowed = (difference / reach(level)) ** 2 - rest**2
    return float(ceil(one**2 / allowed)) if allowed > 0 else inf
