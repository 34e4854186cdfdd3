"""Does a score rank one group above another? The area under the ROC curve, with clustered intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rimkit.behavior.rates import Difference, Rate, resample_weights, widened_percentiles, wilson
from rimkit.errors import UserError


def auroc(scores: Sequence[float], positive: Sequence[bool], clusters: Sequence | None = None, seed: int = 0) -> Rate:
    """The chance that a positive scores above a negative (ties count half), with its 95% interval.

    Whole clusters are drawn again (single prompts without ``clusters``), percentiles as in `rates`. Where the groups
    do not overlap at all, draws cannot show any spread: the interval is then Wilson's, with as many units as the
    smaller group has clusters. Raises ``UserError`` where one group is empty or a score is not a number.
    """
    scores, positive = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    groups, sizes, (wins,) = _by_cluster(scores[None], positive, clusters)
    value = float(wins.sum() / (positive.sum() * (~positive).sum()))
    if value in (0.0, 1.0):
        units = int((sizes > 0).sum(1).min())
        return Rate(value, *wilson(value, units, 0.95), len(scores), f"Wilson, {units} clusters")
    weights = resample_weights(groups, seed)
    pairs = (weights @ sizes[0]) * (weights @ sizes[1])
    draws = ((weights @ wins) * weights).sum(1)[pairs > 0] / pairs[pairs > 0]
    low, high = widened_percentiles(draws, groups, 0.95)
    return Rate(value, min(low, value), max(high, value), len(scores), f"bootstrap of {groups} clusters")


def areas(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The areas under the curve of several scores ``[scores, prompts]`` of the same prompts, without intervals."""
    wins = stats.mannwhitneyu(scores[:, positive], scores[:, ~positive], axis=1, method="asymptotic").statistic
    return wins / (positive.sum() * (~positive).sum())


def _by_cluster(scores: np.ndarray, positive: np.ndarray, clusters: Sequence | None):
    """``(clusters, sizes [2, clusters], wins [scores, clusters, clusters])``: whose positives win how often."""
    if positive.all() or not positive.any():
        raise UserError(f"all {len(positive)} prompts are in one group: there is nothing to rank it against")
    if np.isnan(scores).any():
        raise UserError("a score is missing: leave out prompts without one")
    codes = np.arange(len(positive)) if clusters is None else pd.factorize(np.asarray(clusters), sort=True)[0]
    groups = int(codes.max()) + 1
    places = codes[positive][:, None], codes[~positive][None]
    wins = np.zeros((len(scores), groups, groups))
    for table, row in zip(wins, scores, strict=True):
        above, below = row[positive][:, None], row[~positive][None]
        np.add.at(table, places, (above > below) + 0.5 * (above == below))
    sizes = np.stack([np.bincount(codes[side], minlength=groups) for side in (positive, ~positive)]).astype(float)
    return groups, sizes, wins


def auroc_above(
    scores: Sequence[float],
    controls: np.ndarray,
    positive: Sequence[bool],
    clusters: Sequence | None = None,
    seed: int = 0,
    either_side: bool = True,
) -> Difference:
    """How much better a score ranks than its controls do on the same prompts, with a 95% interval.

    ``controls`` ``[number, prompts]``: other scores of the same prompts; their areas are averaged, and with
    ``either_side`` each counts with its better side (a direction without a sign cannot be wrong about it). Whole
    clusters are drawn again, for the score and its controls alike. ``p_value`` is two-sided, from the draws' spread.
    """
    positive = np.asarray(positive, dtype=bool)
    groups, pairs, wins = _by_cluster(np.vstack([np.asarray(scores, dtype=float), controls]), positive, clusters)
    weights = resample_weights(groups, seed)
    sizes = (weights @ pairs[0]) * (weights @ pairs[1])
    drawn = np.stack([((weights @ table) * weights).sum(1)[sizes > 0] / sizes[sizes > 0] for table in wins])
    whole = wins.sum((1, 2)) / (positive.sum() * (~positive).sum())
    if either_side:
        drawn[1:], whole[1:] = np.maximum(drawn[1:], 1 - drawn[1:]), np.maximum(whole[1:], 1 - whole[1:])
    value, control = float(whole[0]), float(whole[1:].mean())
    change, effect = drawn[0] - drawn[1:].mean(0), value - control
    low, high = widened_percentiles(change, groups, 0.95)
    spread = float(change.std(ddof=1))
    p_value = float(2 * stats.t.sf(abs(effect) / spread, groups - 1)) if spread else float(effect == 0)
    found = min(low, effect), max(high, effect)
    return Difference(value, control, effect, *found, p_value, len(positive), groups, f"bootstrap of {groups} clusters")
