"""Does a score rank one group above another? The area under the ROC curve, with clustered intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rimkit.behavior.rates import Rate, resample_weights, widened_percentiles, wilson
from rimkit.errors import UserError


def auroc(scores: Sequence[float], positive: Sequence[bool], clusters: Sequence | None = None, seed: int = 0) -> Rate:
    """The chance that a positive scores above a negative (ties count half), with its 95% interval.

    Whole clusters are drawn again (single prompts without ``clusters``), percentiles as in `rates`. Where the groups
    do not overlap at all, draws cannot show any spread: the interval is then Wilson's, with as many units as the
    smaller group has clusters. Raises ``UserError`` where one group is empty or a score is not a number.
    """
    scores, positive = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        raise UserError(f"all {len(positive)} prompts are in one group: there is nothing to rank it against")
    if np.isnan(scores).any():
        raise UserError("a score is missing: leave out prompts without one")
    codes = np.arange(len(scores)) if clusters is None else pd.factorize(np.asarray(clusters), sort=True)[0]
    groups = codes.max() + 1
    above, below = scores[positive][:, None], scores[~positive][None]
    wins = (above > below) + 0.5 * (above == below)
    by_cluster = np.zeros((groups, groups))
    np.add.at(by_cluster, (codes[positive][:, None], codes[~positive][None]), wins)
    sizes = np.stack([np.bincount(codes[side], minlength=groups) for side in (positive, ~positive)]).astype(float)
    value = float(wins.mean())
    if value in (0.0, 1.0):
        units = int((sizes > 0).sum(1).min())
        return Rate(value, *wilson(value, units, 0.95), len(scores), f"Wilson, {units} clusters")
    weights = resample_weights(groups, seed)
    pairs = (weights @ sizes[0]) * (weights @ sizes[1])
    draws = ((weights @ by_cluster) * weights).sum(1)[pairs > 0] / pairs[pairs > 0]
    low, high = widened_percentiles(draws, groups, 0.95)
    return Rate(value, min(low, value), max(high, value), len(scores), f"bootstrap of {groups} clusters")
