"""Claims C9 and C10 as ledger rows: RAS in safety-critical neurons against other sets, and against its rivals.

A single other set may have a high or a low RAS, so the control is the *spread* of such sets and not their mean: every
interval against them covers two things, which corpora were used and which set one compares with. One of them in place
of the critical set is then undecided about 95 times in 100.

Which sets? Random neurons are the paper's control, and no fair one: neurons that one rule finds are alike, so that a
set of them strays further than a random one, whatever it was chosen for (in models of random weights, too). C9a
therefore compares with the sets that the same rule finds without intent; random sets have a row of their own.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from scipy import stats

from rimkit.behavior.rates import resample_weights, widened_percentiles
from rimkit.ledger import effect_row
from rimkit.mechanism.prediction import MODEL, OUTCOME, RAS, _correlations, _moments, standardised, varying
from rimkit.mechanism.sets import against_singles

RIVALS = {
    "C10a": "KL on tuning data", "C10c": "rise", "Q3a": "arithmetic mean", "Q3b": "geometric mean",
}  # fmt: skip
EFFORT, CAREFUL = "multi-hop-effort", "multi-hop-careful"


RANDOM, SAME_RULE = "random", "same rule"


def other_sets(points: pd.DataFrame, kind: str = RANDOM) -> list[str]:
    """The columns with RAS in one other set each, of a kind: `RANDOM` or `SAME_RULE`."""
    return [name for name in points if re.fullmatch(rf"ras \({kind}\) \d+", str(name))]


def _against_sets(effect: float, draws: np.ndarray, singles: np.ndarray, groups: int) -> dict:
    """``effect`` with its interval: corpora drawn again (``draws``), and the effect against each single set."""
    low, high = against_singles(effect, *widened_percentiles(draws, groups, 0.95), singles)
    rank, of = int(1 + (singles <= 0).sum()), len(singles) + 1
    return {
        "effect": effect, "ci_low": low, "ci_high": high, "rank": rank, "of": of, "p_rank": rank / of,
        "control": "one other set",
    }  # fmt: skip


def log_ratio(points: pd.DataFrame, a: str = RAS, kind: str = SAME_RULE, seed: int = 0) -> dict:
    """Mean log RAS in ``a`` minus that in the other sets of a kind; points where one of them is 0 are left out.

    ``rank`` 1 of ``of`` is the highest; ``p_rank`` is the exact one-sided p value of a rank at least as high.
    """
    sets = [name for name in other_sets(points, kind) if name != a]
    kept = points[(points[[a, *sets]] > 0).all(axis=1)]
    codes, corpora = pd.factorize(kept["corpus"], sort=True)
    own, others = np.log(kept[a].to_numpy()), np.log(kept[sets].to_numpy())
    change = own - others.mean(1)
    sums, sizes = (np.bincount(codes, values) for values in (change, np.ones(len(kept))))
    weights = resample_weights(len(corpora), seed)
    draws = (weights @ sums) / (weights @ sizes)
    found = _against_sets(change.mean(), draws, own.mean() - others.mean(0), len(corpora))
    return {"value_a": own.mean(), "value_b": others.mean(), "n": len(kept), "condition": a, **found}


def difference(points: pd.DataFrame, a: str, b: str, outcome: str = OUTCOME, seed: int = 0) -> dict:
    """Correlation of predictor ``a`` minus that of ``b``, with the interval of corpora drawn again."""
    one, two = _with_draws(points, [a, b], outcome, seed)
    effect, groups = one[0] - two[0], points["corpus"].nunique()
    low, high = widened_percentiles(one[1:] - two[1:], groups, 0.95)
    return {"value_a": one[0], "value_b": two[0], "effect": effect, "ci_low": min(low, effect),
            "ci_high": max(high, effect), "n": len(points), "condition": a, "control": b}  # fmt: skip


def difference_from_random(points: pd.DataFrame, a: str = RAS, outcome: str = OUTCOME, seed: int = 0) -> dict:
    """Correlation of RAS in ``a`` minus that of RAS in single random sets, as `log_ratio` compares their sizes."""
    sets = [name for name in other_sets(points) if name != a]
    own, *others = _with_draws(points, [a, *sets], outcome, seed)
    mean = np.mean(others, axis=0)
    singles = own[0] - np.array([other[0] for other in others])
    found = _against_sets(own[0] - mean[0], own[1:] - mean[1:], singles, points["corpus"].nunique())
    return {"value_a": own[0], "value_b": mean[0], "n": len(points), "condition": a, **found}


def _with_draws(points: pd.DataFrame, predictors: list[str], outcome: str, seed: int) -> list[np.ndarray]:
    """Of each predictor its correlation, followed by those of corpora drawn again."""
    codes, corpora = pd.factorize(points["corpus"], sort=True)
    weights = np.vstack([np.ones(len(corpora)), resample_weights(len(corpora), seed)])
    y = standardised(points, outcome).to_numpy()
    return [_correlations(weights, _moments(standardised(points, name).to_numpy(), y, codes)) for name in predictors]


def effort_against_careful(points: pd.DataFrame, column: str = RAS) -> dict:
    """Mean log RAS after effort-minimising minus careful chains, same steps: t interval over untuned models.

    The interval covers other untuned models of this kind, not other corpora: there is one of each. With fewer than
    three models there is none (missing), as two give a t interval that no effect could leave.
    """
    wide = points.assign(log=np.log(points[column].where(points[column] > 0))).pivot_table(
        index=[*MODEL, "step"], columns="corpus", values="log", dropna=False
    )
    pairs = wide[[EFFORT, CAREFUL]].dropna().groupby(level=MODEL, dropna=False).mean()
    change = (pairs[EFFORT] - pairs[CAREFUL]).to_numpy()
    n = len(change)
    reach = stats.t.isf(0.025, n - 1) * change.std(ddof=1) / np.sqrt(n) if n > 2 else np.nan
    one, two = pairs.mean()
    effect = one - two
    return {"value_a": one, "value_b": two, "effect": effect, "ci_low": effect - reach, "ci_high": effect + reach,
            "n": n, "condition": "effort-minimising", "control": "careful"}  # fmt: skip


def claim_rows(points: pd.DataFrame, **values) -> list[dict]:
    """The rows of C9 (C9a per model and seed, C9b per organism), C10 and Q3 (per organism, its seeds pooled).

    Correlations are over the models whose outcome varies (`prediction.variation`); ``n_seeds`` counts them.
    """
    rows = []
    for (model, seed), part in points.groupby(MODEL, sort=False):
        if part["corpus"].nunique() > 2:
            found = {"model": model, "seed": int(seed), **values}
            beside = {"condition": "against random sets", "control": "random neurons"}
            for kind, more in ((SAME_RULE, {}), (RANDOM, beside)):
                if other_sets(part, kind):
                    rows.append(effect_row("C9a", log_ratio(part, kind=kind), **more, **found))
    for model, part in points.groupby("model", sort=False):
        if {EFFORT, CAREFUL} <= set(part["corpus"]) and part["seed"].nunique() > 1:
            found = effort_against_careful(part)
            rows.append(effect_row("C9b", found, model=model, n_seeds=part["seed"].nunique(), **values))
        part = varying(part)
        if part["corpus"].nunique() > 2:
            pooled = {"model": model, "n_seeds": part["seed"].nunique(), **values}
            rows.append(effect_row("C10b", difference_from_random(part), **pooled))
            rows += [effect_row(claim, difference(part, RAS, rival), **pooled) for claim, rival in RIVALS.items()]
    return rows
