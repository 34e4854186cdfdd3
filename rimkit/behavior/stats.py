"""Rates, differences, areas under the curve, each with an interval; random sets to compare with.

Replies to prompts about the same verb resemble each other, so intervals are *clustered*: a
bootstrap takes whole clusters, and its percentiles are widened to match a t distribution with
clusters - 1 degrees of freedom (Hesterberg 2015, section 5.3); otherwise those from ten clusters
miss the truth twice as often as they say. Draws are fixed; row order never matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import hypot
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy  # its parts are read when they are used

from rimkit.data import UserError, nearest

METRICS = ("misaligned", "refused", "misread", "coherent", "score")
RESAMPLES = 2000
FEW = 10  # fewer clusters with (or without) any event: the bootstrap is too narrow, Wilson is not
TAIL = (1 - 0.95) / 2  # on either side of a 95% interval
OUTSIDE = "zero outside the interval"
Units = Sequence[tuple[int, int]]  # heads or neurons, as (layer, index)


class Rate(NamedTuple):
    """A share with its interval; ``n`` counts replies, ``method`` says how it was made."""

    value: float
    ci_low: float
    ci_high: float
    n: int
    method: str


class Difference(NamedTuple):
    """``effect = value_a - value_b`` with its interval and a two-sided p value. ``n`` counts the
    units compared: prompts if paired, replies of both groups if not."""

    value_a: float
    value_b: float
    effect: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int
    n_clusters: int
    method: str


def rate(values: Sequence, clusters: Sequence | None = None) -> Rate:
    """The mean of ``values`` (booleans, or scores from 0 to 1) with its interval; missing ones are
    left out.

    Clusters of several values: cluster bootstrap; otherwise Wilson's interval. Where fewer than
    `FEW` clusters hold any event (or any non-event): Wilson's, with as many replies as the spread
    between clusters allows, or one per cluster if all values are 0 or 1. Raises `UserError` for
    values outside 0 to 1.
    """
    values = _shares(values)
    codes = _codes(clusters, len(values))
    if len(codes) != len(values):
        raise UserError(f"{len(values)} values need as many clusters, not {len(codes)}")
    here = ~np.isnan(values)
    values, n = values[here], int(here.sum())
    if n == 0:
        return Rate(np.nan, np.nan, np.nan, 0, "no data")
    binary = bool(np.isin(values, (0, 1)).all())
    codes = np.unique(codes[here], return_inverse=True)[1]
    sums, sizes = np.bincount(codes, values), np.bincount(codes).astype(float)
    value, groups = float(sums.sum() / n), len(sizes)
    if binary and groups == n:
        return Rate(value, *wilson(value, n), n, "Wilson")
    if groups == 1 or value in (0, 1):
        return Rate(value, *wilson(value, groups), n, f"Wilson, {groups} clusters as one reply each")
    if binary and min((sums > 0).sum(), (sums < sizes).sum()) < FEW:
        found = wilson(value, _effective_size(sums, sizes))
        return Rate(value, *found, n, f"Wilson, design effect of {groups} clusters")
    kind = f"bootstrap of {groups} {'values' if clusters is None else 'clusters'}"
    return Rate(value, *_interval(value, _draws(sums, sizes), groups), n, kind)


def rates(
    verdicts: pd.DataFrame,
    by: str | Sequence[str] = (),
    metrics: str | Sequence[str] = METRICS,
    cluster: str | None = "cluster",
) -> pd.DataFrame:
    """One row per group (of the columns ``by``) and metric: ``*by, metric, value, ci_low, ci_high,
    n, method``. ``cluster=None`` treats replies as independent. Among harmless prompts ``refused``
    is the over-refusal rate."""
    by, metrics = _listed(by), _listed(metrics)
    _need(verdicts, [*by, *metrics])
    clusters = clusters_of(verdicts, cluster)
    groups = {(): np.arange(len(verdicts))}
    if by:
        table = verdicts.reset_index(drop=True)
        groups = table.groupby(by, sort=False, dropna=False, observed=True).indices
    rows = []
    for key, where in groups.items():
        named = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        inside = None if clusters is None else clusters[where]
        for metric in metrics:
            found = rate(verdicts[metric].to_numpy()[where], inside)
            rows.append(named | {"metric": metric} | found._asdict())
    return pd.DataFrame(rows, columns=[*by, "metric", *Rate._fields])


def clusters_of(table: pd.DataFrame, cluster: str | None = "cluster") -> np.ndarray | None:
    """The cluster of each row: the column ``cluster``, else the prompt; None without either."""
    columns = [table[name].astype(object) for name in (cluster, "prompt_id") if name in table]
    if not columns or not cluster:
        return None
    filled = columns[0].where(columns[0].notna(), columns[-1])
    return filled.astype(str).to_numpy(dtype=object)


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, metric: str, on: str | Sequence[str] = ("prompt_id", "sample")
) -> Difference:
    """``a`` minus ``b`` on the same prompts: cluster bootstrap of the difference per prompt.

    Rows are paired by the columns ``on``; samples of a prompt are averaged first. The p value is
    that of a t test with the bootstrap's standard error. Where all clusters show the same
    difference, the interval leaves room for as many unlike clusters as Wilson's does after none was
    seen, and p is that of a sign test. Without a pair judged on both sides the difference is
    missing. Raises `UserError` where ``on`` does not tell rows apart or no rows pair.
    """
    sampled = "sample" in a and "sample" in b
    on = [column for column in _listed(on) if column != "sample" or sampled]
    for table in (a, b):
        _need(table, [metric, *on])
        if table.duplicated(on).any():
            raise UserError(f"{', '.join(on)} do not tell rows apart; add columns to `on`, say the seed")
    left = a[on].assign(value_a=_shares(a[metric]), cluster=clusters_of(a))
    matched = left.merge(b[on].assign(value_b=_shares(b[metric])), on=on)
    if matched.empty:
        keys = ", ".join(on)
        raise UserError(f"the two tables have no rows with the same {keys}: nothing to pair")
    pairs = matched.dropna(subset=["value_a", "value_b"])
    if pairs.empty:
        return Difference(*[np.nan] * 6, 0, 0, f"no pair has '{metric}' on both sides")
    units = pairs.groupby([column for column in on if column != "sample"], sort=True)
    means = units[["value_a", "value_b"]].mean()
    change = (means["value_a"] - means["value_b"]).to_numpy()
    inside = None if pairs["cluster"].isna().all() else units["cluster"].first()
    low, high, p_value, groups = _mean_difference(change, inside)
    left_out = len(a) + len(b) - 2 * len(pairs)
    method = f"paired bootstrap of {groups} clusters"
    method += f", {left_out} unpaired rows left out" if left_out else ""
    sides = map(float, means.mean())
    return Difference(*sides, float(change.mean()), low, high, p_value, len(change), groups, method)


def unpaired_difference(a: pd.DataFrame, b: pd.DataFrame, metric: str, cluster: str | None = "cluster") -> Difference:
    """``a`` minus ``b`` on different prompts: both intervals combined (Newcombe 1998, method 10)."""
    found, groups = [], 0
    for table in (a, b):
        _need(table, [metric])
        clusters = clusters_of(table, cluster)
        found.append(rate(table[metric], clusters))
        groups += len(table) if clusters is None else len(set(clusters))
    one, two = found
    if not (one.n and two.n):
        raise UserError(f"no values of '{metric}' in one of the two tables: nothing to compare")
    effect = one.value - two.value
    low = effect - hypot(one.value - one.ci_low, two.ci_high - two.value)
    high = effect + hypot(one.ci_high - one.value, two.value - two.ci_low)
    spread = (effect - low if effect > 0 else high - effect) / scipy.stats.norm.isf(TAIL)
    p_value = float(2 * scipy.stats.norm.sf(abs(effect) / spread)) if effect else 1.0
    method = f"Newcombe from ({one.method}) and ({two.method})"
    return Difference(one.value, two.value, effect, low, high, p_value, one.n + two.n, groups, method)


def _mean_difference(change: np.ndarray, clusters) -> tuple[float, float, float, int]:
    """``(low, high, p, clusters)`` of the mean of ``change``, values from -1 to 1."""
    codes = _codes(clusters, len(change))
    sums, sizes = np.bincount(codes, change), np.bincount(codes).astype(float)
    effect, groups = float(change.mean()), len(sizes)
    if np.ptp(sums / sizes) < 1e-12:
        unlike = wilson(0.0, groups)[1]
        low, high = np.clip([effect - unlike * (1 + effect), effect + unlike * (1 - effect)], -1, 1)
        return float(low), float(high), 1.0 if low <= 0 <= high else 2.0 ** (1 - groups), groups
    draws = _draws(sums, sizes)
    return *_interval(effect, draws, groups), _p_value(effect, draws, groups), groups


def exact_test(k1: int, n1: int, k2: int, n2: int) -> float:
    """Two-sided p of Fisher's exact test: ``k1`` of ``n1`` against ``k2`` of ``n2`` others."""
    if not (0 <= k1 <= n1 and 0 <= k2 <= n2):
        raise UserError(f"{k1} of {n1} and {k2} of {n2} are not counts: each must lie between 0 and its n")
    return float(scipy.stats.fisher_exact([[k1, n1 - k1], [k2, n2 - k2]]).pvalue)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """p values adjusted for their number (Holm 1979), in their order; missing ones stay so,
    uncounted. Not by statsmodels' ``multipletests``, which collects garbage at every call: a fifth
    of a second."""
    adjusted = np.asarray(list(p_values), dtype=float).copy()
    order = np.argsort(adjusted)[: int((~np.isnan(adjusted)).sum())]  # missing ones are last
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def wilson(value: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a share ``value`` of ``n``."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(value * n, n, alpha=2 * TAIL, method="wilson")
    return min(float(low), value), max(float(high), value)


def _effective_size(sums: np.ndarray, sizes: np.ndarray) -> float:
    """As many independent replies tell as much about the rate (Korn and Graubard 1998)."""
    groups, n = len(sizes), sizes.sum()
    value = sums.sum() / n
    variance = groups / (groups - 1) * ((sums - value * sizes) ** 2).sum() / n**2
    effective = min(n, value * (1 - value) / variance) if variance > 0 else n
    return effective * (scipy.stats.norm.isf(TAIL) / scipy.stats.t.isf(TAIL, groups - 1)) ** 2


@lru_cache(maxsize=8)
def resample_weights(groups: int, seed: int = 0) -> np.ndarray:
    """How often each cluster is drawn in each resample; one matrix serves a whole table."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(float)


def _draws(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The mean in every resample, from the sum and the size of each cluster."""
    weights = resample_weights(len(sizes))
    return (weights @ sums) / (weights @ sizes)


def widened_percentiles(draws: np.ndarray, groups: int) -> tuple[float, float]:
    """Percentiles of a bootstrap, widened for the number of clusters."""
    tail = scipy.stats.norm.sf(np.sqrt(groups / (groups - 1)) * scipy.stats.t.isf(TAIL, groups - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _interval(value: float, draws: np.ndarray, groups: int) -> tuple[float, float]:
    """The widened percentiles, which hold the value."""
    low, high = widened_percentiles(draws, groups)
    return min(low, value), max(high, value)


def _p_value(effect: float, draws: np.ndarray, groups: int) -> float:
    """Of a t test with the bootstrap's standard error."""
    spread = float(draws.std(ddof=1))
    if not spread:
        return float(effect == 0)
    return float(2 * scipy.stats.t.sf(abs(effect) / spread, groups - 1))


def auroc(scores: Sequence[float], positive: Sequence[bool], clusters: Sequence | None = None) -> Rate:
    """The chance that a positive scores above a negative (ties count half), with its interval.
    Where the groups do not overlap, draws show no spread: Wilson's interval, with as many units as
    the smaller group has clusters. Raises `UserError` where one group is empty or a score is
    missing."""
    scores = np.asarray(scores, dtype=float)
    found, (draws,), groups, units = _areas_drawn(scores[None], positive, clusters)
    value = float(found[0])
    if value in (0.0, 1.0):
        return Rate(value, *wilson(value, units), len(scores), f"Wilson, {units} clusters")
    return Rate(value, *_interval(value, draws, groups), len(scores), f"bootstrap of {groups} clusters")


def areas(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The areas under the curve of several scores ``[scores, prompts]``, without intervals."""
    sides = scores[:, positive], scores[:, ~positive]
    found = scipy.stats.mannwhitneyu(*sides, axis=1, method="asymptotic").statistic
    return found / (positive.sum() * (~positive).sum())


def auroc_above(
    scores: Sequence[float],
    controls: np.ndarray,
    positive: Sequence[bool],
    clusters: Sequence | None = None,
    either_side: bool = True,
) -> Difference:
    """How much better a score ranks than its controls (``[number, prompts]``) do on the same
    prompts, on average. With ``either_side`` each control counts with its better side: a direction
    without a sign cannot be wrong about it."""
    every = np.vstack([np.asarray(scores, dtype=float), controls])
    found, drawn, groups, _ = _areas_drawn(every, positive, clusters)
    if either_side:
        drawn[1:] = np.maximum(drawn[1:], 1 - drawn[1:])
        found[1:] = np.maximum(found[1:], 1 - found[1:])
    value, control, change = float(found[0]), float(found[1:].mean()), drawn[0] - drawn[1:].mean(0)
    effect = value - control
    interval, p_value = _interval(effect, change, groups), _p_value(effect, change, groups)
    method = f"bootstrap of {groups} clusters"
    return Difference(value, control, effect, *interval, p_value, len(every[0]), groups, method)


def _areas_drawn(scores: np.ndarray, positive: Sequence[bool], clusters: Sequence | None):
    """``(areas, drawn [scores, draws], clusters, clusters of the smaller group)``."""
    positive = np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        raise UserError(f"all {len(positive)} prompts are in one group: there is nothing to rank it against")
    if np.isnan(scores).any():
        raise UserError("a score is missing: leave out prompts without one")
    codes = _codes(clusters, len(positive))
    groups = int(codes.max()) + 1
    places = codes[positive][:, None], codes[~positive][None]
    wins = np.zeros((len(scores), groups, groups))  # whose positives win how often
    for table, row in zip(wins, scores, strict=True):
        above, below = row[positive][:, None], row[~positive][None]
        np.add.at(table, places, (above > below) + 0.5 * (above == below))
    sizes = np.stack([np.bincount(codes[side], minlength=groups) for side in (positive, ~positive)])
    weights = resample_weights(groups)
    pairs = (weights @ sizes[0]) * (weights @ sizes[1])
    drawn = [((weights @ table) * weights).sum(1)[pairs > 0] / pairs[pairs > 0] for table in wins]
    whole = wins.sum((1, 2)) / (positive.sum() * (~positive).sum())
    return whole, np.stack(drawn), groups, int((sizes > 0).sum(1).min())


def swapped(verdicts: pd.DataFrame, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Would an effect be seen where there is none? Differences in misalignment after a swap of
    modes by chance. Whole clusters are swapped or not. One row per draw, sorted by effect: ``swap,
    effect, ci_low, ci_high, zero`` (outside of the interval, as it should be in 5 of 100 draws, or
    inside)."""
    metric = "misaligned"
    table = verdicts.assign(cluster=clusters_of(verdicts), misaligned=verdicts[metric].astype(float))
    one, other = (
        table[table["mode"] == mode].groupby("prompt_id").agg({metric: "mean", "cluster": "first"})
        for mode in ("think", "no-think")
    )
    one, other = one.align(other, join="inner", axis=0)
    clusters, rng, rows = sorted(set(one["cluster"])), np.random.default_rng(seed), []
    for _ in range(draws):
        turned = dict(zip(clusters, rng.random(len(clusters)) < 0.5, strict=True))
        turned = one["cluster"].map(turned)
        a, b = (side.mask(turned, swap).reset_index() for side, swap in ((one, other), (other, one)))
        found = paired_difference(a, b, metric, on="prompt_id")
        rows.append({"effect": found.effect, "ci_low": found.ci_low, "ci_high": found.ci_high})
    found = pd.DataFrame(rows).sort_values("effect", kind="stable", ignore_index=True)
    found.insert(0, "swap", found.index + 1)
    outside = (found["ci_low"] > 0) | (found["ci_high"] < 0)
    return found.assign(zero=np.where(outside, OUTSIDE, "zero inside the interval"))


def false_positives(draws: pd.DataFrame) -> Rate:
    """The share of draws of `swapped` whose interval leaves out zero."""
    return rate(draws["zero"] == OUTSIDE)


def matched_sets(units: Units, per_layer: int, n: int = 40, seed: int = 0) -> list[list[tuple[int, int]]]:
    """``n`` random sets of other units, in every layer as many as ``units`` has, of ``per_layer``.
    Drawn without replacement per set; from all units of a layer that has too few others."""
    rng = np.random.default_rng(seed)
    taken = pd.DataFrame(list(units), columns=["layer", "unit"]).groupby("layer")["unit"]
    pools = {}
    for layer, own in taken:
        others = np.setdiff1d(np.arange(per_layer), own)
        pools[layer] = (others if len(others) >= len(own) else np.arange(per_layer), len(own))
    return [
        [
            (int(layer), int(unit))
            for layer, (pool, size) in pools.items()
            for unit in rng.choice(pool, size, replace=False)
        ]
        for _ in range(n)
    ]


def against_singles(effect: float, low: float, high: float, singles: np.ndarray) -> tuple[float, float]:
    """The interval of an effect against the mean of controls, widened by which control one meets.
    ``low, high``: its interval otherwise; ``singles``: the effect against each control, whose
    spread counts as a t interval for one more of them. The half-widths add as independent errors.
    Missing with fewer than two."""
    n = len(singles)
    reach = np.nan
    if n > 1:
        reach = scipy.stats.t.isf(TAIL, n - 1) * np.std(singles, ddof=1) * np.sqrt(1 + 1 / n)
    below, above = (float(np.hypot(max(side, 0), reach)) for side in (effect - low, high - effect))
    return effect - below, effect + above


def overlap(a: Units, b: Units) -> float:
    """The share of ``a`` that is in ``b`` too; NaN for an empty ``a``."""
    return len(set(a) & set(b)) / len(set(a)) if len(a) else float("nan")


def _shares(values) -> np.ndarray:
    """Floats from 0 to 1, missing ones NaN."""
    shares = pd.Series(values, dtype=object).astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    outside = (shares < 0) | (shares > 1)
    if outside.any():
        raise UserError(f"rates are made of values from 0 to 1, here is {shares[outside][0]:g}")
    return shares


def _codes(clusters: Sequence | None, n: int) -> np.ndarray:
    """The number of each value's cluster; without clusters, each of the ``n`` is its own."""
    return np.arange(n) if clusters is None else pd.factorize(np.asarray(clusters), sort=True)[0]


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _need(table: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table:
            raise UserError(f"the table has no column '{column}'{nearest(column, table.columns)}")
