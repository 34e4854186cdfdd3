"""Rates turned back into counts: implied denominators, intervals, exact tests, and one probe for four curves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep

from rimkit.behavior.rates import exact_test, rate
from rimkit.errors import UserError
from rimkit.published.tables import HARM_BENCHMARK, MATHS_PROBLEMS, by_model, published

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
