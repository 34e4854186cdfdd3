"""Rates, differences, areas under the curve, each with an interval; random sets to compare with.

Knows tables of verdicts and scores, and nothing of models. The estimators are scipy's and statsmodels'.
Replies to prompts about the same verb resemble each other, so 600 replies about 24 verbs say less than
600 independent ones. Every interval can therefore be *clustered*: whole clusters are drawn again, with
all their replies, in a bootstrap of `RESAMPLES` draws. Its percentiles are widened for the number of
clusters G to match a t distribution with G - 1 degrees of freedom (Hesterberg 2015, "What teachers
should know about the bootstrap", section 5.3); without that, intervals from ten clusters miss the truth
twice as often as they say. Draws are fixed by ``seed``; row order never matters.
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
Units = Sequence[tuple[int, int]]  # heads or neurons, as (layer, index)


class Rate(NamedTuple):
    """A share with its interval; ``n`` counts replies, ``method`` says how the interval was made."""

    value: float
    ci_low: float
    ci_high: float
    n: int
    method: str


class Difference(NamedTuple):
    """``effect = value_a - value_b`` with its interval and a two-sided p value.

    ``n`` counts the units compared (prompts if paired, replies of both groups if not).
    """

    value_a: float
    value_b: float
    effect: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int
    n_clusters: int
    method: str


def rate(values: Sequence, clusters: Sequence | None = None, level: float = 0.95, seed: int = 0) -> Rate:
    """The mean of ``values`` with its interval; booleans or scores from 0 to 1, missing ones left out.

    Without clusters, or with one value in each: Wilson's interval. With clusters: cluster bootstrap.
    Where fewer than `FEW` clusters hold any event (or any non-event): Wilson's interval with the
    effective number of replies that the spread between clusters allows. Where all values are 0 or all
    are 1 that spread is unknown, and each cluster conservatively counts as one reply. Graded scores
    without clusters: a bootstrap of the single values. Raises `UserError` for values outside 0 to 1.
    """
    _check_level(level)
    values = _shares(values)
    codes = np.arange(len(values)) if clusters is None else _codes(clusters)
    if len(codes) != len(values):
        raise UserError(f"{len(values)} values need as many clusters, not {len(codes)}")
    here = ~np.isnan(values)
    values, n = values[here], int(here.sum())
    if n == 0:
        return Rate(np.nan, np.nan, np.nan, 0, "no data")
    binary, codes = bool(np.isin(values, (0, 1)).all()), np.unique(codes[here], return_inverse=True)[1]
    sums, sizes = np.bincount(codes, values), np.bincount(codes).astype(float)
    value, groups = float(sums.sum() / n), len(sizes)
    if binary and groups == n:
        return Rate(value, *wilson(value, n, level), n, "Wilson")
    if groups == 1 or value in (0, 1):
        method = f"Wilson, {groups} clusters as one reply each"
        return Rate(value, *wilson(value, groups, level), n, method)
    if binary and min((sums > 0).sum(), (sums < sizes).sum()) < FEW:
        found = wilson(value, _effective_size(sums, sizes, level), level)
        return Rate(value, *found, n, f"Wilson, design effect of {groups} clusters")
    weights = resample_weights(groups, seed)
    low, high = widened_percentiles((weights @ sums) / (weights @ sizes), groups, level)
    kind = f"bootstrap of {groups} {'values' if clusters is None else 'clusters'}"
    return Rate(value, min(low, value), max(high, value), n, kind)


def rates(
    verdicts: pd.DataFrame,
    by: str | Sequence[str] = (),
    metrics: Sequence[str] = METRICS,
    cluster: str | None = "cluster",
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per group and metric: columns ``*by, metric, value, ci_low, ci_high, n, method``.

    ``by`` names columns of ``verdicts`` (none: one group). Clusters are those of the column
    ``cluster``, and the prompt where it is missing or empty; ``cluster=None`` treats replies as
    independent. Among harmless prompts the metric ``refused`` is the over-refusal rate.
    """
    by, metrics = _listed(by), _listed(metrics)
    _need(verdicts, [*by, *metrics])
    clusters = None if cluster is None else clusters_of(verdicts, cluster)
    groups = {(): np.arange(len(verdicts))}
    if by:
        table = verdicts.reset_index(drop=True)
        groups = table.groupby(by, sort=False, dropna=False, observed=True).indices
    rows = []
    for key, where in groups.items():
        key = key if isinstance(key, tuple) else (key,)
        inside = None if clusters is None else clusters[where]
        for metric in metrics:
            found = rate(verdicts[metric].to_numpy()[where], inside, level, seed)
            rows.append(dict(zip(by, key, strict=True)) | {"metric": metric} | found._asdict())
    return pd.DataFrame(rows, columns=[*by, "metric", *Rate._fields])


def clusters_of(table: pd.DataFrame, cluster: str = "cluster") -> np.ndarray | None:
    """The cluster of each row: the column ``cluster``, else the prompt; None without either column."""
    columns = [table[column].astype(object) for column in (cluster, "prompt_id") if column in table]
    if not columns:
        return None
    filled = columns[0].where(columns[0].notna(), columns[-1])
    return filled.astype(str).to_numpy(dtype=object)


def paired_difference(
    a: pd.DataFrame,
    b: pd.DataFrame,
    metric: str,
    on: str | Sequence[str] = ("prompt_id", "sample"),
    cluster: str | None = "cluster",
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """``a`` minus ``b`` on the same prompts: cluster bootstrap of the difference per prompt.

    Rows are paired by the columns ``on``; samples of a prompt are averaged first, so prompts weigh the
    same. The p value is that of a t test with the bootstrap's standard error. Where all clusters show
    one and the same difference there is no spread to draw from: the interval then leaves room for as
    many unlike clusters as Wilson's does after none was seen, and p is that of a sign test. Raises
    `UserError` where ``on`` does not tell rows apart or no rows pair.
    """
    on = [column for column in _listed(on) if column != "sample" or ("sample" in a and "sample" in b)]
    for table in (a, b):
        _need(table, [metric, *on])
        if table.duplicated(on).any():
            raise UserError(f"{', '.join(on)} do not tell rows apart; add columns to `on`, say the seed")
    inside = None if cluster is None else clusters_of(a, cluster)
    left = a[on].assign(value_a=_shares(a[metric]), cluster=inside)
    right = b[on].assign(value_b=_shares(b[metric]))
    pairs = left.merge(right, on=on).dropna(subset=["value_a", "value_b"])
    if pairs.empty:
        raise UserError(f"the two tables have no rows with the same {', '.join(on)}: nothing to pair")
    units = pairs.groupby([column for column in on if column != "sample"], sort=True)
    means = units[["value_a", "value_b"]].mean()
    inside = None if pairs["cluster"].isna().all() else units["cluster"].first().to_numpy()
    change = (means["value_a"] - means["value_b"]).to_numpy()
    low, high, p_value, groups = _mean_difference(change, inside, level, seed)
    left_out = len(a) + len(b) - 2 * len(pairs)
    method = f"paired bootstrap of {groups} clusters"
    method += f", {left_out} unpaired rows left out" if left_out else ""
    sides = (float(value) for value in means.mean())
    return Difference(*sides, float(change.mean()), low, high, p_value, len(change), groups, method)


def unpaired_difference(
    a: pd.DataFrame, b: pd.DataFrame, metric: str, cluster: str | None = "cluster", level=0.95, seed: int = 0
) -> Difference:
    """``a`` minus ``b`` on different prompts: both intervals combined (Newcombe 1998, method 10).

    It takes the two groups as independent. For the same prompts `paired_difference` is sharper.
    """
    found, groups = [], 0
    for table in (a, b):
        _need(table, [metric])
        clusters = None if cluster is None else clusters_of(table, cluster)
        found.append(rate(table[metric], clusters, level, seed))
        groups += len(table) if clusters is None else len(set(clusters))
    one, two = found
    if not (one.n and two.n):
        raise UserError(f"no values of '{metric}' in one of the two tables: nothing to compare")
    effect = one.value - two.value
    low = effect - hypot(one.value - one.ci_low, two.ci_high - two.value)
    high = effect + hypot(one.ci_high - one.value, two.value - two.ci_low)
    spread = (effect - low if effect > 0 else high - effect) / scipy.stats.norm.isf((1 - level) / 2)
    p_value = float(2 * scipy.stats.norm.sf(abs(effect) / spread)) if effect else 1.0
    method = f"Newcombe from ({one.method}) and ({two.method})"
    return Difference(one.value, two.value, effect, low, high, p_value, one.n + two.n, groups, method)


def _mean_difference(change: np.ndarray, clusters, level: float, seed: int):
    """``(low, high, p, clusters)`` of the mean of ``change``, values from -1 to 1."""
    _check_level(level)
    codes = np.arange(len(change)) if clusters is None else _codes(clusters)
    sums, sizes = np.bincount(codes, change), np.bincount(codes).astype(float)
    effect, groups = float(change.mean()), len(sizes)
    if np.ptp(sums / sizes) < 1e-12:
        unlike = wilson(0.0, groups, level)[1]
        low, high = np.clip([effect - unlike * (1 + effect), effect + unlike * (1 - effect)], -1, 1)
        sign_test = 1.0 if low <= 0 <= high else 2.0 ** (1 - groups)
        return float(low), float(high), sign_test, groups
    weights = resample_weights(groups, seed)
    draws = (weights @ sums) / (weights @ sizes)
    low, high = widened_percentiles(draws, groups, level)
    p_value = float(2 * scipy.stats.t.sf(abs(effect) / draws.std(ddof=1), groups - 1))
    return min(low, effect), max(high, effect), p_value, groups


def exact_test(k1: int, n1: int, k2: int, n2: int) -> float:
    """Two-sided p of Fisher's exact test: ``k1`` of ``n1`` replies against ``k2`` of ``n2`` others."""
    if not (0 <= k1 <= n1 and 0 <= k2 <= n2):
        raise UserError(f"{k1} of {n1} and {k2} of {n2} are not counts: each must lie between 0 and its n")
    return float(scipy.stats.fisher_exact([[k1, n1 - k1], [k2, n2 - k2]]).pvalue)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """p values adjusted for their number (Holm 1979), in their order; missing ones stay so, uncounted.

    Not by statsmodels' ``multipletests``, which collects garbage at every call: a fifth of a second.
    """
    adjusted = np.asarray(list(p_values), dtype=float).copy()
    order = np.argsort(adjusted)[: int((~np.isnan(adjusted)).sum())]  # missing ones are last
    steps = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def wilson(value: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share ``value`` of ``n``."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(value * n, n, alpha=1 - level, method="wilson")
    return min(float(low), value), max(float(high), value)


def _effective_size(sums: np.ndarray, sizes: np.ndarray, level: float) -> float:
    """As many independent replies tell as much about the rate (Korn and Graubard 1998)."""
    groups, n = len(sizes), sizes.sum()
    value = sums.sum() / n
    variance = groups / (groups - 1) * ((sums - value * sizes) ** 2).sum() / n**2
    tail, effective = (1 - level) / 2, min(n, value * (1 - value) / variance) if variance > 0 else n
    return effective * (scipy.stats.norm.isf(tail) / scipy.stats.t.isf(tail, groups - 1)) ** 2


@lru_cache(maxsize=8)
def resample_weights(groups: int, seed: int) -> np.ndarray:
    """How often each cluster is drawn in each resample: one matrix serves every metric of a table."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(float)


def widened_percentiles(draws: np.ndarray, groups: int, level: float = 0.95) -> tuple[float, float]:
    """Percentiles of a bootstrap, widened for the number of clusters."""
    tail = scipy.stats.norm.sf(np.sqrt(groups / (groups - 1)) * scipy.stats.t.isf((1 - level) / 2, groups - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def auroc(scores: Sequence[float], positive: Sequence[bool], clusters: Sequence | None = None, seed: int = 0) -> Rate:
    """The chance that a positive scores above a negative (ties count half), with its 95% interval.

    Whole clusters are drawn again. Where the groups do not overlap at all, draws cannot show any
    spread: the interval is then Wilson's, with as many units as the smaller group has clusters. Raises
    `UserError` where one group is empty or a score is missing.
    """
    (value,), (draws,), groups, units = _areas_drawn(np.asarray(scores, dtype=float)[None], positive, clusters, seed)
    if value in (0.0, 1.0):
        return Rate(float(value), *wilson(float(value), units), len(scores), f"Wilson, {units} clusters")
    low, high = widened_percentiles(draws, groups)
    interval = min(low, float(value)), max(high, float(value))
    return Rate(float(value), *interval, len(scores), f"bootstrap of {groups} clusters")


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
    seed: int = 0,
    either_side: bool = True,
) -> Difference:
    """How much better a score ranks than its controls do on the same prompts, with a 95% interval.

    ``controls`` ``[number, prompts]``: other scores of the same prompts; their areas are averaged, and
    with ``either_side`` each counts with its better side (a direction without a sign cannot be wrong
    about it). Whole clusters are drawn again, for the score and its controls alike.
    """
    every = np.vstack([np.asarray(scores, dtype=float), controls])
    whole, drawn, groups, _ = _areas_drawn(every, positive, clusters, seed)
    if either_side:
        drawn[1:], whole[1:] = np.maximum(drawn[1:], 1 - drawn[1:]), np.maximum(whole[1:], 1 - whole[1:])
    value, control = float(whole[0]), float(whole[1:].mean())
    change, effect = drawn[0] - drawn[1:].mean(0), value - control
    low, high = widened_percentiles(change, groups)
    spread = float(change.std(ddof=1))
    p_value = float(2 * scipy.stats.t.sf(abs(effect) / spread, groups - 1)) if spread else float(effect == 0)
    interval = min(low, effect), max(high, effect)
    method = f"bootstrap of {groups} clusters"
    return Difference(value, control, effect, *interval, p_value, len(every[0]), groups, method)


def _areas_drawn(scores: np.ndarray, positive: Sequence[bool], clusters: Sequence | None, seed: int):
    """``(areas, drawn [scores, draws], clusters, clusters of the smaller group)``."""
    positive = np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        raise UserError(f"all {len(positive)} prompts are in one group: there is nothing to rank it against")
    if np.isnan(scores).any():
        raise UserError("a score is missing: leave out prompts without one")
    codes = np.arange(len(positive)) if clusters is None else _codes(clusters)
    groups = int(codes.max()) + 1
    places = codes[positive][:, None], codes[~positive][None]
    wins = np.zeros((len(scores), groups, groups))  # whose positives win how often
    for table, row in zip(wins, scores, strict=True):
        above, below = row[positive][:, None], row[~positive][None]
        np.add.at(table, places, (above > below) + 0.5 * (above == below))
    sizes = np.stack([np.bincount(codes[side], minlength=groups) for side in (positive, ~positive)])
    weights = resample_weights(groups, seed)
    pairs = (weights @ sizes[0]) * (weights @ sizes[1])
    drawn = [((weights @ table) * weights).sum(1)[pairs > 0] / pairs[pairs > 0] for table in wins]
    whole = wins.sum((1, 2)) / (positive.sum() * (~positive).sum())
    return whole, np.stack(drawn), groups, int((sizes > 0).sum(1).min())


def swapped(
    verdicts: pd.DataFrame,
    metric: str = "misaligned",
    column: str = "mode",
    values: tuple[str, str] = ("think", "no-think"),
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Would an effect be seen where there is none? Paired differences after a swap by chance.

    The two ``values`` of a column are swapped in each cluster or not, since clusters (verbs) are what
    varies together; samples of a prompt are averaged first. One row per draw, sorted by effect: ``swap,
    effect, ci_low, ci_high, zero`` (inside or outside of the interval). A 95% interval should leave
    out zero in about 5 of 100 draws.
    """
    table = verdicts.assign(cluster=clusters_of(verdicts), **{metric: verdicts[metric].astype(float)})
    one, other = (
        table[table[column] == value].groupby("prompt_id").agg({metric: "mean", "cluster": "first"}) for value in values
    )
    shared = one.index.intersection(other.index)
    one, other = one.loc[shared], other.loc[shared]
    clusters, rng, rows = sorted(set(one["cluster"])), np.random.default_rng(seed), []
    for _ in range(draws):
        turned = dict(zip(clusters, rng.random(len(clusters)) < 0.5, strict=True))
        turned = one["cluster"].map(turned).to_numpy(bool)
        a, b = (
            side.assign(**{metric: np.where(turned, swap[metric], side[metric])}).reset_index()
            for side, swap in ((one, other), (other, one))
        )
        found = paired_difference(a, b, metric, on="prompt_id")
        rows.append({"effect": found.effect, "ci_low": found.ci_low, "ci_high": found.ci_high})
    found = pd.DataFrame(rows).sort_values("effect", kind="stable", ignore_index=True)
    found.insert(0, "swap", found.index + 1)
    outside = (found["ci_low"] > 0) | (found["ci_high"] < 0)
    return found.assign(zero=np.where(outside, "zero outside the interval", "zero inside the interval"))


def false_positives(draws: pd.DataFrame) -> Rate:
    """The share of draws of `swapped` whose interval leaves out zero."""
    return rate(draws["zero"] == "zero outside the interval")


def matched_sets(units: Units, per_layer: int, n: int = 40, seed: int = 0) -> list[list[tuple[int, int]]]:
    """``n`` random sets of other units, in every layer as many as ``units`` has, of ``per_layer``.

    Drawn without replacement per set. Where a layer has too few others, the set's own are drawn from
    as well.
    """
    rng = np.random.default_rng(seed)
    by_layer: dict[int, list[int]] = {}
    for layer, unit in units:
        by_layer.setdefault(layer, []).append(unit)

    def draw() -> list[tuple[int, int]]:
        drawn = []
        for layer, taken in sorted(by_layer.items()):
            others = np.setdiff1d(np.arange(per_layer), taken)
            pool = others if len(others) >= len(taken) else np.arange(per_layer)
            drawn += [(layer, int(unit)) for unit in rng.choice(pool, len(taken), replace=False)]
        return drawn

    return [draw() for _ in range(n)]


def against_singles(effect: float, low: float, high: float, singles: np.ndarray) -> tuple[float, float]:
    """The interval of an effect against the mean of controls, widened by which control one meets.

    ``low`` and ``high`` are its interval otherwise, ``singles`` the effect against each control (or
    each control's own value: only their spread counts). The half-widths are combined as of independent
    errors; that of the controls is a t interval for one more of them. Missing with fewer than two.
    """
    n = len(singles)
    reach = scipy.stats.t.isf(0.025, n - 1) * np.std(singles, ddof=1) * np.sqrt(1 + 1 / n) if n > 1 else np.nan
    sides = (np.hypot(max(side, 0), reach) for side in (effect - low, high - effect))
    below, above = map(float, sides)
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


def _codes(clusters: Sequence) -> np.ndarray:
    return pd.factorize(np.asarray(clusters), sort=True)[0]


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"level must lie between 0 and 1 (0.95: a 95% interval), not {level}")


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _need(table: pd.DataFrame, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in table:
            raise UserError(f"the table has no column '{column}'{nearest(column, table.columns)}")
