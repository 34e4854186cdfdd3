"""Rates, differences, areas under the curve, each with an interval; random sets to compare with.

Replies to prompts about the same verb resemble each other, so intervals are *clustered*. Rates and
paired differences: a Bayesian bootstrap (Rubin 1981) over the clusters and two half pseudo-clusters
at the ends of the range (one event more never narrows an interval), and p values of a sign flip
per cluster. Areas and correlations: a bootstrap of whole clusters whose percentiles are widened to
match a t distribution with clusters - 1 degrees of freedom (Hesterberg 2015, section 5.3).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import hypot
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy  # its parts are read when they are used

from rimkit.data import UserError, check_columns, check_index, pairs_of, truths

METRICS = ("misaligned", "refused", "misread", "coherent", "score")
RESAMPLES = 2000
DRAWS = 4000  # of Bayesian weights, each counted twice: with the pseudo-clusters either way round
FLIPS = 99_999  # of signs, where more than `EXACT` clusters differ: beyond 65,536 patterns
EXACT, BLOCK = 16, 64
TAIL = (1 - 0.95) / 2  # on either side of a 95% interval
INSIDE = "zero inside the interval"
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
    """The mean of ``values`` (booleans or shares) that are there, with interval. 0 or 1, each a
    cluster of its own: Wilson's; else a Bayesian bootstrap. Raises `UserError` for other values."""
    values = shares(values)
    codes = _codes(clusters, len(values))
    here = ~np.isnan(values)
    values, n = values[here], int(here.sum())
    if n == 0:
        return Rate(np.nan, np.nan, np.nan, 0, "no data")
    codes = np.unique(codes[here], return_inverse=True)[1]
    sums, sizes = np.bincount(codes, values), np.bincount(codes).astype(float)
    value, groups = float(sums.sum() / n), len(sizes)
    if groups == n and np.isin(values, (0, 1)).all():
        return Rate(value, *wilson(value, n), n, "Wilson")
    kind = f"Bayesian bootstrap of {groups} {'values' if clusters is None else 'clusters'}"
    return Rate(value, *_bayesian_interval(sums, sizes, 0, 1), n, kind)


def rates(
    judged: pd.DataFrame, by: str | Sequence[str] = (), metrics: str | Sequence[str] = METRICS,
    cluster: str | None = "cluster",
) -> pd.DataFrame:  # fmt: skip
    """One row per group (of the columns ``by``) and metric: ``*by, metric, value, ci_low, ci_high,
    n, method``. ``cluster=None``: independent replies. ``refused`` of harmless: over-refusal."""
    by, metrics = _listed(by), _listed(metrics)
    check_columns(judged, [*by, *metrics], "the table")
    clusters, found = clusters_of(judged, cluster), {name: shares(judged[name]) for name in metrics}
    groups = {(): np.arange(len(judged))}
    if by:
        table = judged.reset_index(drop=True)
        groups = table.groupby(by, sort=False, dropna=False, observed=True).indices
    rows = []
    for key, where in groups.items():
        named = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        inside = None if clusters is None else clusters[where]
        for metric in metrics:
            rows.append(named | {"metric": metric} | rate(found[metric][where], inside)._asdict())
    return pd.DataFrame(rows, columns=[*by, "metric", *Rate._fields])


def clusters_of(table: pd.DataFrame, cluster: str | None = "cluster") -> np.ndarray | None:
    """The cluster of each row: the column ``cluster``, else the prompt; None without either."""
    if cluster not in (None, "cluster"):
        check_columns(table, [cluster], "the table")
    columns = [table[name].astype(object) for name in (cluster, "prompt_id") if name in table]
    if not columns or not cluster:
        return None
    return columns[0].where(columns[0].notna(), columns[-1]).astype(str).to_numpy(dtype=object)


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, metric: str, on: str | Sequence[str] = ("prompt_id", "sample")
) -> Difference:
    """``a`` minus ``b`` on the same prompts, whose differences are clustered. Rows are paired by
    the columns ``on``; samples of a prompt are averaged first. Interval: Bayesian bootstrap; p
    value: `sign_flip_p`. Without a pair judged on both sides the difference is missing. Raises
    `UserError` where ``on`` does not tell rows apart or no rows pair."""
    sampled = "sample" in a and "sample" in b
    on = [column for column in _listed(on) if column != "sample" or sampled] or ["prompt_id"]
    for table in (a, b):
        check_columns(table, [metric, *on], "the table")
        if table.duplicated(on).any():
            raise UserError(f"{', '.join(on)} do not tell rows apart; add columns to `on`, say the seed")
    left = a[on].assign(value_a=shares(a[metric]), cluster=clusters_of(a))
    matched = left.merge(b[on].assign(value_b=shares(b[metric])), on=on)
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
    low, high, p_value, groups = mean_change(change, inside)
    left_out = len(a) + len(b) - 2 * len(pairs)
    method = f"paired Bayesian bootstrap and sign flips of {groups} clusters"
    method += f", {left_out} unpaired rows left out" if left_out else ""
    sides = map(float, means.mean())
    return Difference(*sides, float(change.mean()), low, high, p_value, len(change), groups, method)


def unpaired_difference(a: pd.DataFrame, b: pd.DataFrame, metric: str, cluster: str | None = "cluster") -> Difference:
    """``a`` minus ``b`` on different prompts: Newcombe 1998, method 10, from both intervals."""
    found, groups = [], 0
    for table in (a, b):
        check_columns(table, [metric], "the table")
        clusters = clusters_of(table, cluster)
        found.append(rate(table[metric], clusters))
        groups += len(table) if clusters is None else len(set(clusters))
    one, two = found
    if not (one.n and two.n):
        raise UserError(f"no values of '{metric}' in one of the two tables: nothing to compare")
    effect = one.value - two.value
    low = effect - hypot(one.value - one.ci_low, two.ci_high - two.value)
    high = effect + hypot(one.ci_high - one.value, two.value - two.ci_low)
    method = f"Newcombe from ({one.method}) and ({two.method})"
    ends = effect, low, high, p_from_interval(effect, low, high)
    return Difference(one.value, two.value, *ends, one.n + two.n, groups, method)


def p_from_interval(effect: float, ci_low: float, ci_high: float) -> float:
    """Two-sided p of "no effect" by normal approximation, with the standard error of the side that
    faces zero: below 0.05 exactly where the interval excludes zero."""
    if not np.isfinite([effect, ci_low, ci_high]).all():
        return np.nan
    facing = effect - ci_low if effect > 0 else ci_high - effect
    if not effect or facing <= 0:
        return float(not effect)
    return float(2 * scipy.stats.norm.sf(abs(effect) / (facing / scipy.stats.norm.isf(TAIL))))


def mean_change(change: np.ndarray, clusters) -> tuple[float, float, float, int]:
    """``(low, high, p, clusters)`` of the mean of ``change``, values from -1 to 1."""
    codes = _codes(clusters, len(change))
    sums, sizes = np.bincount(codes, change), np.bincount(codes).astype(float)
    return *_bayesian_interval(sums, sizes, -1, 1), sign_flip_p(sums), len(sizes)


@lru_cache(maxsize=4)
def _bayesian_weights(groups: int) -> np.ndarray:
    """``[draws, groups + 2]``: of clusters, and half as much of the two pseudo-clusters."""
    return np.random.default_rng(0).dirichlet([1.0] * groups + [0.5, 0.5], DRAWS)


def _bayesian_interval(sums: np.ndarray, sizes: np.ndarray, least: float, most: float) -> tuple[float, float]:
    """The interval of a mean over clusters (sums, sizes) of values from ``least`` to ``most``, which
    holds it. A pseudo-cluster of mean size lies at each end: else no event would leave no width."""
    weights, size = _bayesian_weights(len(sizes)), sizes.mean()
    mean = float(sums.sum() / sizes.sum())
    below, above = size * weights[:, -2:].T
    middle = weights[:, :-2] @ sums + (below + above) * (least + most) / 2
    aside, whole = (above - below) * (most - least) / 2, weights[:, :-2] @ sizes + below + above
    draws = np.concatenate([middle - aside, middle + aside]) / np.concatenate([whole, whole])
    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    return max(least, min(float(low), mean)), min(most, max(float(high), mean))


@lru_cache(maxsize=1)
def _signs(block: int) -> np.ndarray:
    """Random signs ``[FLIPS, BLOCK]``: those of the block-th so many clusters."""
    drawn = np.frombuffer(np.random.default_rng(block).bytes(FLIPS * BLOCK // 8), dtype=np.uint8)
    return 2 * np.unpackbits(drawn).reshape(FLIPS, BLOCK).astype(np.float32) - 1


def sign_flip_p(sums: np.ndarray) -> float:
    """Two-sided p that a sum of clusters' ``sums`` is 0: how often flipped signs give as much.
    Exact where at most `EXACT` clusters differ from 0, else from `FLIPS` fixed draws. It is that of
    ``scipy.stats.permutation_test(permutation_type="samples")``, a hundred times faster."""
    sums = np.asarray(sums, dtype=float)
    moved, reach = sums[sums != 0], abs(sums.sum()) * (1 - 1e-5)
    if len(moved) <= EXACT:
        totals = np.zeros(1)
        for one in moved:
            totals = np.concatenate([totals - one, totals + one])
        return float((abs(totals) >= reach).mean())
    parts = {at: moved[at : at + BLOCK].astype(np.float32) for at in range(0, len(moved), BLOCK)}
    totals = sum(_signs(at // BLOCK)[:, : len(part)] @ part for at, part in parts.items())
    return float((1 + (abs(totals) >= reach).sum()) / (1 + FLIPS))


def exact_test(k1: int, n1: int, k2: int, n2: int) -> float:
    """Two-sided p of Fisher's exact test: ``k1`` of ``n1`` against ``k2`` of ``n2`` others."""
    if not (0 <= k1 <= n1 and 0 <= k2 <= n2) or any(count % 1 for count in (k1, n1, k2, n2)):
        raise UserError(f"{k1} of {n1} and {k2} of {n2} are not counts: whole numbers up to n")
    return float(scipy.stats.fisher_exact([[k1, n1 - k1], [k2, n2 - k2]]).pvalue)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """p values adjusted for their number (Holm 1979), in order; missing ones stay so, uncounted."""
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(list(p_values), dtype=float)
    if ((adjusted < 0) | (adjusted > 1)).any():
        raise UserError("p values are from 0 to 1")
    if (there := ~np.isnan(adjusted)).any():
        adjusted[there] = multipletests(adjusted[there], method="holm")[1]
    return adjusted


def wilson(value: float, n: float) -> tuple[float, float]:
    """Wilson's interval of a share ``value`` of ``n``."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(value * n, n, alpha=2 * TAIL, method="wilson")
    return min(float(low), value), max(float(high), value)


@lru_cache(maxsize=8)
def resample_weights(groups: int, seed: int = 0) -> np.ndarray:
    """How often each cluster is drawn in each resample; one matrix serves a whole table."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(float)


def sample_weights(groups: int) -> np.ndarray:
    """A row of ones, the sample as it is, and below it the `resample_weights`."""
    return np.vstack([np.ones(groups), resample_weights(groups)])


def drawn_means(values: np.ndarray, clusters: Sequence) -> tuple[np.ndarray, int]:
    """The mean of ``values`` in every resample of whole clusters, and the number of clusters."""
    codes = _codes(clusters, len(values))
    weights = resample_weights(groups := int(codes.max()) + 1)[:, codes]
    return weights @ values / weights.sum(1), groups


def widened_percentiles(draws: np.ndarray, groups: int) -> tuple[float, float]:
    """Percentiles of a bootstrap, widened for the number of clusters; `UserError` below two."""
    draws = _enough(draws, groups)
    tail = scipy.stats.norm.sf(np.sqrt(groups / (groups - 1)) * scipy.stats.t.isf(TAIL, groups - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_interval(value: float, draws: np.ndarray, groups: int) -> tuple[float, float]:
    """The `widened_percentiles` of a bootstrap of ``groups`` clusters, which hold the value."""
    low, high = widened_percentiles(draws, groups)
    return min(low, value), max(high, value)


def squared_se(low: Sequence, high: Sequence) -> np.ndarray:
    """The squared standard error behind an interval of 95%, as if it were normal."""
    return ((np.asarray(high) - np.asarray(low)) / (2 * 1.96)) ** 2


def _enough(draws: Sequence, groups: int) -> np.ndarray:
    draws = np.asarray(draws, dtype=float)
    if min(draws.size, groups) < 2:
        raise UserError(f"a bootstrap takes two draws and clusters, not {draws.size} and {groups}")
    return draws


def bootstrap_p(effect: float, draws: np.ndarray, groups: int) -> float:
    """Two-sided p of a t test with the bootstrap's standard error."""
    spread = float(_enough(draws, groups).std(ddof=1))
    if not spread:
        return float(effect == 0)
    return float(2 * scipy.stats.t.sf(abs(effect) / spread, groups - 1))


def kappa(one: Sequence[bool], two: Sequence[bool], clusters: Sequence) -> dict:
    """``kappa, ci_low, ci_high, method`` of two judges on the same replies, clusters
    drawn whole. Where they always agree, it leaves Wilson's room, after none of the clusters."""
    one, two = (truths(pd.Series(x, dtype=object)).fillna(False).to_numpy(bool) for x in (one, two))
    codes = pd.factorize(np.asarray(clusters), sort=True)[0]
    if len({len(one), len(two), len(codes)}) > 1:
        raise UserError(f"replies differ: {len(one)}, {len(two)} judged, {len(codes)} clusters")
    groups = len(set(codes))
    missing = {"kappa": np.nan, "ci_low": np.nan, "ci_high": np.nan}
    if len(one) == 0:
        return missing | {"method": "no data"}
    if (one == two).all() and len(set(one)) == 1:
        return missing | {"method": "not defined: both judges say the same of every reply"}
    cells = np.stack([one & two, one & ~two, ~one & two, ~one & ~two], axis=1).astype(float)
    value = float(kappa_of(cells.sum(axis=0, keepdims=True))[0])
    if groups == 1:
        return missing | {"kappa": value, "method": "no interval from one cluster"}
    if (one == two).all():
        by_chance = one.mean() ** 2 + (1 - one.mean()) ** 2
        low = max(-1.0, 1 - wilson(0.0, groups)[1] / (1 - by_chance))
        method = f"Wilson, {groups} clusters without disagreement"
        return {"kappa": value, "ci_low": low, "ci_high": 1.0, "method": method}
    per_cluster = np.stack([np.bincount(codes, cell) for cell in cells.T], axis=1)
    draws = kappa_of(resample_weights(groups) @ per_cluster)
    defined = draws[~np.isnan(draws)]  # a draw without any spread has no kappa
    low, high = bootstrap_interval(value, defined, groups)
    method = f"bootstrap of {groups} clusters"
    if len(defined) < len(draws):
        method += f", {len(draws) - len(defined)} draws without spread left out"
    return {"kappa": value, "ci_low": low, "ci_high": high, "method": method}


def kappa_of(cells: np.ndarray) -> np.ndarray:
    """Cohen's kappa of many tables, rows of counts (both, first only, second only, neither)."""
    both, first, second, neither = (cells / cells.sum(axis=1, keepdims=True)).T
    a, b = both + first, both + second
    by_chance = a * b + (1 - a) * (1 - b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(by_chance < 1, (both + neither - by_chance) / (1 - by_chance), np.nan)


def auroc(scores: Sequence[float], positive: Sequence[bool], clusters: Sequence | None = None) -> Rate:
    """The chance that a positive scores above a negative (ties count half), with its interval.
    Where the groups do not overlap, draws show no spread: Wilson's interval, with as many units as
    the smaller group has clusters. Raises `UserError` for an empty group or a missing score."""
    scores = np.asarray(scores, dtype=float)
    found, (draws,), groups, units = _areas_drawn(scores[None], positive, clusters)
    value = float(found[0])
    if value in (0.0, 1.0):
        return Rate(value, *wilson(value, units), len(scores), f"Wilson, {units} clusters")
    return Rate(value, *bootstrap_interval(value, draws, groups), len(scores), f"bootstrap of {groups} clusters")


def areas(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The areas under the curve of several scores ``[scores, prompts]``, without intervals."""
    scores, positive = _labelled(scores, positive)
    sides = scores[:, positive], scores[:, ~positive]
    found = scipy.stats.mannwhitneyu(*sides, axis=1, method="asymptotic").statistic
    return found / (positive.sum() * (~positive).sum())


def auroc_above(
    scores: Sequence[float], controls: np.ndarray, positive: Sequence[bool],
    clusters: Sequence | None = None, either_side: bool = True,
) -> Difference:  # fmt: skip
    """How much better a score ranks than its controls (``[number, prompts]``) on average, on the
    same prompts. ``either_side``: each control counts with its better side: it has no sign."""
    every = np.vstack([_labelled([each], positive)[0] for each in (scores, *controls)])
    found, drawn, groups, _ = _areas_drawn(every, positive, clusters)
    if either_side:
        drawn[1:] = np.maximum(drawn[1:], 1 - drawn[1:])
        found[1:] = np.maximum(found[1:], 1 - found[1:])
    value, control, change = float(found[0]), float(found[1:].mean()), drawn[0] - drawn[1:].mean(0)
    effect = value - control
    ends, p_value = bootstrap_interval(effect, change, groups), bootstrap_p(effect, change, groups)
    method = f"bootstrap of {groups} clusters"
    return Difference(value, control, effect, *ends, p_value, len(every[0]), groups, method)


def _areas_drawn(scores: np.ndarray, positive: Sequence[bool], clusters: Sequence | None):
    """``(areas, drawn [scores, draws], clusters, clusters of the smaller group)``."""
    scores, positive = _labelled(scores, positive)
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


def _labelled(scores: Sequence, positive: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[scores, prompts]`` and as many labels; raises `UserError` for others."""
    found, positive = np.asarray(scores, dtype=float), truths(pd.Series(positive))
    if found.ndim != 2 or len(positive) != found.shape[1] or positive.isna().any():
        raise UserError(f"{found.shape[-1]} scores need as many labels, True or False")
    return found, positive.to_numpy(dtype=bool)


def swapped(judged: pd.DataFrame, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Would an effect be seen where there is none? Differences in misalignment after modes are
    swapped by chance, whole clusters or not. One row per draw, sorted by effect: ``swap, effect,
    ci_low, ci_high, zero``: where the interval lies, as it should in 95 of 100 draws `INSIDE`."""
    table = judged.assign(cluster=clusters_of(judged), misaligned=shares(judged["misaligned"]))
    one, other = (
        part.groupby("prompt_id").agg({"misaligned": "mean", "cluster": "first"})
        for part in (table[table["mode"] == mode] for mode in ("think", "no-think"))
    )
    one, other = one.align(other, join="inner", axis=0)
    clusters, rng, rows = sorted(set(one["cluster"])), np.random.default_rng(seed), []
    for _ in range(draws):
        turned = dict(zip(clusters, rng.random(len(clusters)) < 0.5, strict=True))
        turned = one["cluster"].map(turned)
        a, b = (side.mask(turned, swap).reset_index() for side, swap in ((one, other), (other, one)))
        found = paired_difference(a, b, "misaligned", on="prompt_id")
        rows.append({"effect": found.effect, "ci_low": found.ci_low, "ci_high": found.ci_high})
    found = pd.DataFrame(rows).sort_values("effect", kind="stable", ignore_index=True)
    found.insert(0, "swap", found.index + 1)
    below, above = found["ci_high"] < 0, found["ci_low"] > 0
    return found.assign(zero=np.select([below, above], ["below zero", "above zero"], INSIDE))


def false_positives(draws: pd.DataFrame) -> Rate:
    """The share of draws of `swapped` whose interval leaves out zero."""
    return rate(draws["zero"] != INSIDE)


def matched_sets(units: Units, per_layer: int, n: int = 40, seed: int = 0) -> list[list[tuple[int, int]]]:
    """``n`` random sets of other units, in every layer as many as ``units`` has, of ``per_layer``.
    Drawn without replacement per set; from all units of a layer that has too few others."""
    rng = np.random.default_rng(seed)
    for _, unit in (units := pairs_of(units, "unit")):
        check_index("unit", unit, per_layer)
    taken = pd.DataFrame(units, columns=["layer", "unit"]).groupby("layer")["unit"]
    pools = {}
    for layer, own in taken:
        others = np.setdiff1d(np.arange(per_layer), own)
        pools[layer] = (others if len(others) >= len(own) else np.arange(per_layer), len(own))
    sets = []
    for _ in range(n):
        drawn = {layer: rng.choice(pool, size, replace=False).tolist() for layer, (pool, size) in pools.items()}
        sets.append([(int(layer), unit) for layer, chosen in drawn.items() for unit in chosen])
    return sets


def against_singles(found: Mapping, singles: np.ndarray, limit: float = np.inf) -> dict:
    """A difference from the mean of controls, held against the *spread* of single controls.
    ``found``: ``effect`` with ``ci_low, ci_high``, its interval if the controls' mean were known;
    ``singles``: the effect against each of n controls. Interval (cut at plus or minus ``limit``)
    and p value are those of a t distribution, n - 1 degrees of freedom, on both errors together,
    since one more control might have been any of them; missing below two. ``beyond``: the share of
    controls beyond which the effect lies on its own side of zero."""
    effect, n = found["effect"], len(singles)
    if n < 2 or np.isnan(effect):
        nothing = dict.fromkeys(("ci_low", "ci_high", "p_value", "beyond"), np.nan)
        return {**found, **nothing, "method": f"{n} controls, too few for their spread"}
    spread, normal = np.std(singles, ddof=1) * np.sqrt(1 + 1 / n), scipy.stats.norm.isf(TAIL)
    sides = effect - found["ci_low"], found["ci_high"] - effect
    errors = [np.hypot(max(side, 0) / normal, spread) for side in sides]
    reach, facing = scipy.stats.t.isf(TAIL, n - 1), errors[0] if effect > 0 else errors[1]
    p_value = float(effect == 0)  # where nothing varies
    if facing != 0:  # NaN stays NaN
        p_value = 2 * scipy.stats.t.sf(abs(effect) / facing, n - 1)
    return {
        **found, "ci_low": float(max(effect - reach * errors[0], -limit)),
        "ci_high": float(min(effect + reach * errors[1], limit)), "p_value": float(p_value),
        "beyond": float((np.sign(effect) * singles > 1e-9).mean()),
        "method": f"{found.get('method') or 'interval'}, and the spread of {n} controls",
    }  # fmt: skip


def overlap(a: Units, b: Units) -> float:
    """The share of ``a`` that is in ``b`` too; NaN for an empty ``a``."""
    return len(set(a) & set(b)) / len(set(a)) if len(a) else float("nan")


def shares(values: Sequence) -> np.ndarray:
    """Truths and shares from 0 to 1 as floats, missing ones NaN; raises `UserError` for others."""
    if np.ndim(values) != 1:
        raise UserError("rates are made of one list of values, or one column")
    column = pd.Series(values, dtype=object)
    try:
        column = column.astype("Float64")
    except (TypeError, ValueError):
        column = truths(column).astype("Float64")
    found = column.to_numpy(dtype=float, na_value=np.nan)
    outside = (found < 0) | (found > 1)
    if outside.any():
        raise UserError(f"rates are made of values from 0 to 1, here is {found[outside][0]:g}")
    return found


def _codes(clusters: Sequence | None, n: int) -> np.ndarray:
    """The number of each value's cluster; without clusters, each of the ``n`` is its own."""
    given = np.arange(n) if clusters is None else np.asarray(clusters)
    if given.shape != (n,) or pd.isna(given).any():
        there = given.size - int(pd.isna(given).sum())
        raise UserError(f"{n} values need as many clusters, not {there}")
    return pd.factorize(given, sort=True)[0]


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
