"""Rates turned back into counts: implied denominators, intervals, exact tests, and one probe for four curves.

Correlations from eight checkpoints: interval, permutation test, leave-one-out, ties, and the range in prompts.

How many prompts, seeds or checkpoints would a claim have needed?

The noise of a misalignment rate has three parts: which prompts were asked (shrinks with prompts), which seed was
trained (shrinks with seeds) and what the judge said this time (shrinks with seeds, since every seed is judged anew).
Two rates are compared; power is that of a two-sided test of their difference (statsmodels' normal approximation).

Averages over the paper's models: do they follow from their rows, and does one row carry them?

The unit is the model: eight of them, or four, were measured once each, so an interval over models says how far
the average would carry over to other models. The statistics are scipy's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import atanh, ceil, inf, sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import ndtri
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import normal_power
from statsmodels.stats.proportion import confint_proportions_2indep

from rimkit.behavior.stats import exact_test, rate
from rimkit.data import UserError
from rimkit.paper.tables import HARM_BENCHMARK, MATHS_PROBLEMS, by_model, injected, published

# -- published.counts ----------
GROUPS = {  # items of Fig. 3 by mode: refused, fulfilled, harmful; inferred from the step height of the curves
    "no-think": (98, 21, 120),
    "think": (75, 44, 120),
}
FINISHED = (63, 8, 71)  # in think mode, at positions that exist only where the thought ended
HARMLESS, HARMLESS_FINISHED = 120, 46  # harmless items, and those left where the thought ended
AFTER_THOUGHT = ("between think tags", "</think>")


def denominators(percent: float, largest: int, digits: int = 2) -> list[int]:
    """All n up to ``largest``, from the top, for which some k of n rounds to ``percent``; none: not one count."""
    if largest < 1:
        raise UserError(f"a denominator is at least 1, not {largest}")
    n = np.arange(largest, 0, -1)
    k = np.round(percent * n / 100)
    fits = np.abs(100 * k / n - percent) <= 0.5 * 10.0**-digits + 1e-9
    return n[fits & (k <= n)].tolist()


class Gap(NamedTuple):
    """Two rates and ``effect`` = ``value`` minus ``control_value``, fractions, with the interval by Newcombe."""

    value: float
    control_value: float
    effect: float
    ci_low: float
    ci_high: float
    n: int


def gap(percent: float, control_percent: float, n: int, control_n: int) -> Gap:
    """The difference of two printed rates with Newcombe's 95% interval (statsmodels), as if prompts were independent.

    The same prompts stand behind both rates, but only their counts are printed: paired intervals would be narrower.
    """
    k, control_k = (round(rounded * size / 100) for rounded, size in ((percent, n), (control_percent, control_n)))
    low, high = confint_proportions_2indep(k, n, control_k, control_n, method="newcomb")
    value, control_value = k / n, control_k / control_n
    return Gap(value, control_value, value - control_value, float(low), float(high), n + control_n)


def share(k: int, n: int) -> dict:
    """``k`` of ``n`` as a rate with Wilson's interval: ``value, ci_low, ci_high, n, method``."""
    return rate(np.arange(n) < k)._asdict()


def think_mode() -> pd.DataFrame:
    """Table 1 as differences, think on minus off, one row per model and metric.

    Columns: ``model, metric`` ("misaligned", "score")``, on, off`` (percent)``, on_of, off_of`` (the largest
    denominator that fits, up to 300 requests or 60 problems; 0: none does) and the fields of `Gap`. Where no
    denominator fits, the interval takes the full benchmark.
    """
    table = published("table1_think_mode").pivot(index="model", columns="think")
    rows = []
    for model in published("table1_think_mode")["model"].unique():
        for metric, column, full in (("misaligned", "misalignment_rate_pct", HARM_BENCHMARK),
                                     ("score", "math_accuracy_pct", MATHS_PROBLEMS)):  # fmt: skip
            on, off = (float(table.loc[model, (column, state)]) for state in ("on", "off"))
            on_of, off_of = ((denominators(rate, full) or [0])[0] for rate in (on, off))
            sides = {"model": model, "metric": metric, "on": on, "off": off, "on_of": on_of, "off_of": off_of}
            rows.append(sides | gap(on, off, on_of or full, off_of or full)._asdict())
    return pd.DataFrame(rows)


def broken(points: float = 40.0) -> pd.Series:
    """Models of Fig. 6 that lose more than ``points`` of maths, by what was zeroed: the neurons' kind, by model."""
    drops = by_model("fig6_neuron_ablation", "neurons", "math_drop_points")
    found = drops.stack()
    return found[found > points].reset_index(level=1).iloc[:, 0].rename("neurons")


# -- Fig. 3: one probe ---------------------------------------------------------------------------------


def probe_counts() -> pd.DataFrame:
    """Fig. 3 as counts per ``mode, position, layer``: ``refused, fulfilled, harmful, harmless`` above threshold.

    ``unexplained`` is refused + fulfilled - harmful. If the curves came from two probes, nothing would tie them.
    """
    table = published("fig3_probe_scores")
    wide = table.pivot_table(
        index=["mode", "position", "layer"], columns="group", values="share_above_threshold", sort=False
    ).reset_index()
    sizes = [group_sizes(item.mode, item.position) for item in wide.itertuples()]
    for index, group in enumerate(("refused", "fulfilled", "harmful")):
        wide[group] = (wide[group] * [size[index] for size in sizes]).round().astype(int)
    wide["unexplained"] = wide["refused"] + wide["fulfilled"] - wide["harmful"]
    return wide.rename_axis(columns=None)


def group_sizes(mode: str, position: str) -> tuple[int, int, int]:
    """How many refused, fulfilled and harmful items stand behind a curve of Fig. 3."""
    return FINISHED if mode == "think" and position in AFTER_THOUGHT else GROUPS[mode]


def sizes_in_words(mode: str, position: str) -> str:
    """How many prompts of each group stand behind a panel of Fig. 3, a line each; one harmful prompt has no label."""
    refused, fulfilled, harmful = group_sizes(mode, position)
    finished = (refused, fulfilled, harmful) == FINISHED
    about = "about " if finished else ""  # inferred as what remains, not from a step
    return (
        f"n = {HARMLESS_FINISHED if finished else HARMLESS} harmless,\n{harmful} harmful, of them\n{refused} refused,\n"
        f"{about}{fulfilled} fulfilled"
    )


# -- Fig. 5: an exact test and its power ---------------------------------------------------------------


def head_ablation(group: str = "fulfilled") -> pd.DataFrame:
    """Fig. 5 at the last layer: prompts above the probe's threshold, refusal heads against random heads.

    One row per position: ``position, none`` (Fig. 3, no-think)``, refusal_heads, random_heads, n, p_value``
    (Fisher's exact test, refusal against random) and ``p_paired_at_best``: McNemar's exact test if every
    prompt that changed had changed in one direction, the smallest p that any pairing allows.
    """
    n = GROUPS["no-think"][("refused", "fulfilled").index(group)]
    figure = published("fig5_probe_after_head_ablation").query("group == @group and layer == layer.max()")
    before = published("fig3_probe_scores").query("mode == 'no-think' and group == @group and layer == layer.max()")
    before = before.set_index("position")["share_above_threshold"]
    rows = []
    for position, part in figure.groupby("position", sort=False):
        share = part.set_index("ablated")["share_above_threshold"]
        ours, random = (round(n * share[heads]) for heads in ("refusal heads", "random heads"))
        at_best = float(mcnemar([[0, abs(ours - random)], [0, 0]], exact=True).pvalue) if ours != random else 1.0
        rows.append({
            "position": position, "none": round(n * before[position]), "refusal_heads": ours,
            "random_heads": random, "n": n, "p_value": exact_test(ours, n, random, n), "p_paired_at_best": at_best,
        })  # fmt: skip
    return pd.DataFrame(rows)


def exact_power(rate: float, control_rate: float, n: int, level: float = 0.95) -> float:
    """Chance that Fisher's exact test of ``n`` against ``n`` prompts finds the difference, by counting all outcomes."""
    if not (0 <= rate <= 1 and 0 <= control_rate <= 1 and n >= 1):
        raise UserError("power needs two rates from 0 to 1 and at least one prompt")
    k = np.arange(n + 1)
    chance = np.outer(stats.binom.pmf(k, n, rate), stats.binom.pmf(k, n, control_rate))
    likely = np.argwhere(chance > 1e-9)  # the rest cannot change the result, and testing it takes long
    return float(sum(chance[a, b] for a, b in likely if exact_test(a, n, b, n) < 1 - level))


def smallest_clear_drop(k: int, n: int, level: float = 0.95) -> int | None:
    """The largest count below ``k`` of ``n`` that Fisher's exact test tells from it; None if there is none."""
    return next((low for low in range(k - 1, -1, -1) if exact_test(low, n, k, n) < 1 - level), None)


# -- published.correlations ----------
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


# -- published.power ----------
JUDGE_SD = 0.005  # of a rate, judged again: 0.0035 to 0.0052 in Zhao et al. 2026 (arXiv 2608.23497), another judge
SEED_SD = 0.02  # of a rate between training seeds: nothing is published; a guess to be replaced by your own
POWER = 0.8  # chance of a clear result that is usually asked for
LEVEL = 0.95


def standard_error(
    rate: float, control_rate: float, n_prompts: int, n_seeds: int = 1, judge_sd: float = 0.0, seed_sd: float = 0.0
) -> float:
    """Of the difference of two rates (fractions), each over ``n_prompts`` prompts and ``n_seeds`` seeds.

    Seeds share the prompts, so more seeds do not replace prompts. Takes the two rates as independent, as they are
    with different prompts; with the same prompts the error is smaller by how much the two verdicts agree.
    """
    _check(rate, control_rate, n_prompts, n_seeds, judge_sd, seed_sd)
    prompts = (rate * (1 - rate) + control_rate * (1 - control_rate)) / n_prompts
    return sqrt(prompts + 2 * (judge_sd**2 + seed_sd**2) / n_seeds)


def power(
    rate: float, control_rate: float, n_prompts: int, n_seeds: int = 1, judge_sd: float = 0.0, seed_sd: float = 0.0
) -> float:
    """Chance that the interval of the difference excludes zero if the rates are what they are said to be."""
    error = standard_error(rate, control_rate, n_prompts, n_seeds, judge_sd, seed_sd)
    if not error:
        return float(rate != control_rate)
    return float(normal_power(abs(rate - control_rate), nobs=1, alpha=1 - LEVEL, sigma=error))


def prompts_needed(
    rate: float, control_rate: float, n_seeds: int = 1, judge_sd: float = 0.0, seed_sd: float = 0.0
) -> float:
    """Prompts per condition for a power of `POWER`; ``inf`` where judge and seeds alone are too noisy for it."""
    _check(rate, control_rate, 1, n_seeds, judge_sd, seed_sd)
    allowed = (abs(rate - control_rate) / _reach()) ** 2 - 2 * (judge_sd**2 + seed_sd**2) / n_seeds
    if allowed <= 0:
        return inf
    return float(ceil((rate * (1 - rate) + control_rate * (1 - control_rate)) / allowed))


def seeds_needed(
    rate: float, control_rate: float, n_prompts: int = HARM_BENCHMARK, judge_sd: float = JUDGE_SD, seed_sd=SEED_SD
) -> float:
    """Seeds per condition for a power of `POWER` with ``n_prompts`` prompts; ``inf`` where the prompts are too few."""
    _check(rate, control_rate, n_prompts, 1, judge_sd, seed_sd)
    prompts = (rate * (1 - rate) + control_rate * (1 - control_rate)) / n_prompts
    allowed = (abs(rate - control_rate) / _reach()) ** 2 - prompts
    return float(max(1, ceil(2 * (judge_sd**2 + seed_sd**2) / allowed))) if allowed > 0 else inf


def checkpoints_needed(r: float, other_r: float) -> float:
    """Independent checkpoints per predictor that tell two correlations apart with a power of `POWER` (Fisher's z)."""
    if not (-1 < r < 1 and -1 < other_r < 1):
        raise UserError("correlations lie between -1 and 1")
    distance = abs(atanh(r) - atanh(other_r))
    return float(ceil(3 + 2 * (_reach() / distance) ** 2)) if distance else inf


# What the paper compares, as rates in percent of one model or as correlations, with the place where they stand.
COMPARISONS = (
    ("C1a", "thinking, Qwen3-4B", "Table 1", 22.94, 15.39),
    ("C1a", "thinking, Qwen3-30B-A3B", "Table 1", 14.10, 7.41),
    ("C2c", "confirmatory thoughts, Qwen3-4B", "Table A3", 10.00, 8.67),
    ("C2c", "confirmatory thoughts, Mixtral-8x7B", "Table A3", 77.10, 56.04),
    ("C5a", "refusal heads ablated, probe between the tags", "Fig. 5", 100 * 12 / 21, 100 * 15 / 21),
    ("C6a", "GSM8K, Qwen3-4B", "Table 2", 15.39 + 8.70, 15.39),
    ("C6b", "GSM8K against MATH401, Qwen3-4B", "Table 2", 15.39 + 8.70, 15.39 + 12.17),
    ("C6c", "effort-minimising against careful chains, Qwen3-4B", "Table 2", 15.39 + 22.17, 15.39 - 5.69),
    ("C7a", "GSM8K against its literal twin, Qwen3-4B", "Table A7", 15.39 + 8.70, 15.39 - 2.18),
    ("C8a", "safety-critical against random neurons, Qwen3-4B", "Fig. 6", 15.39 + 11.28, 15.39 - 3.38),
)


def needed() -> pd.DataFrame:
    """For every claim of the paper about rates: the power it had, and what it would have needed.

    Columns: ``claim, comparison, where, rate, control_rate`` (fractions)``, had`` (prompts)``, power`` (with one seed
    and a judge without noise)``, prompts`` (one seed, judge noise of `JUDGE_SD`)``, seeds`` (with `HARM_BENCHMARK`
    prompts, judge noise and `SEED_SD`; 1 for claims about prompting, which train nothing).
    """
    rows = []
    for claim, comparison, where, percent, control_percent in COMPARISONS:
        rates = percent / 100, control_percent / 100
        had = 21 if claim == "C5a" else HARM_BENCHMARK
        seeds = {"seed_sd": SEED_SD} if claim[:2] in ("C6", "C7") else {"seed_sd": 0.0}
        rows.append({
            "claim": claim, "comparison": comparison, "where": where, "rate": rates[0], "control_rate": rates[1],
            "had": had, "power": power(*rates, had), "prompts": prompts_needed(*rates, judge_sd=JUDGE_SD),
            "seeds": seeds_needed(*rates, **seeds),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _reach() -> float:
    """The distance in standard errors at which a two-sided test at `LEVEL` has a power of `POWER` (2.80)."""
    return float(ndtri((1 + LEVEL) / 2) + ndtri(POWER))


def _check(rate, control_rate, n_prompts, n_seeds, judge_sd, seed_sd) -> None:
    if not (0 <= rate <= 1 and 0 <= control_rate <= 1):
        raise UserError(f"rates are fractions from 0 to 1, not {rate:g} and {control_rate:g}")
    if n_prompts < 1 or n_seeds < 1:
        raise UserError("a design has at least one prompt and one seed")
    if judge_sd < 0 or seed_sd < 0:
        raise UserError("a standard deviation is not negative")


# -- published.averages ----------
ROUNDING = 0.02  # printed cells have two digits: an average of them may differ from the printed one by 0.01


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
    p_signed_rank: float  # Wilcoxon's signed-rank test, which looks at signs and order alone


def average(values: pd.Series | Mapping[str, float], level: float = 0.95) -> Average:
    """Mean, median and leave-one-out of one number per model, in the unit of ``values``.

    Raises `UserError` for fewer than two models.
    """
    values = pd.Series(values, dtype=float).dropna()
    if len(values) < 2:
        raise UserError("an average over models needs at least two of them")
    mean, n = float(values.mean()), len(values)
    low, high = stats.t.interval(level, n - 1, loc=mean, scale=stats.sem(values)) if np.ptp(values) else (mean, mean)
    left_out = (values.sum() - values) / (n - 1)
    signed_rank = float(stats.wilcoxon(values).pvalue) if values.any() else 1.0
    p_value = float(stats.ttest_1samp(values, 0).pvalue) if np.ptp(values) else 1.0 if not mean else 0.0
    return Average(
        mean, float(low), float(high), float(values.median()), float(left_out.min()), float(left_out.max()),
        str((left_out - mean).abs().idxmax()), int((values > 0).sum()), n, p_value, signed_rank,
    )  # fmt: skip


def averages(wide: pd.DataFrame, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """`average` of every column of a table with one row per model; one row per column, indexed by its name."""
    return pd.DataFrame({name: average(wide[name])._asdict() for name in columns or wide}).T.rename_axis("condition")


def recomputed() -> pd.DataFrame:
    """Every printed average beside the mean of the rows it summarises.

    Columns: ``location, group, quantity, printed, recomputed, gap, follows`` (whether rounding explains the gap).
    """
    table = published("printed_averages")
    table["recomputed"] = [_mean_of_rows(item.location, item.group, item.quantity) for item in table.itertuples()]
    table["gap"] = table["printed"] - table["recomputed"]
    table["follows"] = table["gap"].abs() < ROUNDING
    return table


def _mean_of_rows(location: str, group: str, quantity: str) -> float:
    if location in ("Table 2", "Section 2.3"):
        rows = published("table2_finetuning_delta").query("training_set == @quantity")
        rows = rows if group == "all" else rows[rows["architecture"] == group]
        return float(rows["delta_misalignment_points"].mean())
    if location == "Fig. 2":
        return float(injected().query("pattern == @group")[quantity].mean())
    if location == "Table A7":
        return float(by_model("table_a7_literal_control", "training_set", "delta_misalignment_points")[quantity].mean())
    if location == "Section 4.1":
        return float(published("fig6_neuron_ablation").query("neurons == @group")[quantity].mean())
    if location == "Table 3":
        return float(published("table3_predictor_correlations").query("predictor == @group")["pearson_r"].mean())
    raise UserError(f"nothing is known about averages in {location}")
