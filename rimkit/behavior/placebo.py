"""Would the pipeline have seen an effect where there is none? Labels swapped at random, everything else as it was.

A test of the intervals on the replies at hand: after a swap there is nothing to find, so that a 95% interval should
leave out zero in about 5 of 100 swaps.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rimkit.behavior.rates import Rate, clusters_of, paired_difference, wilson


def swapped(
    verdicts: pd.DataFrame,
    metric: str = "misaligned",
    column: str = "mode",
    values: tuple[str, str] = ("think", "no-think"),
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """The paired difference between two ``values`` of a column after swapping them, in each cluster or not by chance.

    Whole clusters (verbs) are swapped, since that is what varies together; samples of a prompt are averaged first, as
    in `measure.difference`. One row per draw: ``effect, ci_low, ci_high``.
    """
    table = verdicts.assign(cluster=clusters_of(verdicts), **{metric: verdicts[metric].astype(float)})
    one, other = (
        table[table[column] == value].groupby("prompt_id").agg({metric: "mean", "cluster": "first"}) for value in values
    )
    shared = one.index.intersection(other.index)
    one, other = one.loc[shared], other.loc[shared]
    clusters, rng, rows = sorted(set(one["cluster"])), np.random.default_rng(seed), []
    for _ in range(draws):
        turned = one["cluster"].map(dict(zip(clusters, rng.random(len(clusters)) < 0.5, strict=True))).to_numpy(bool)
        a, b = (
            table.assign(**{metric: np.where(turned, swap[metric], table[metric])}).reset_index()
            for table, swap in ((one, other), (other, one))
        )
        found = paired_difference(a, b, metric, on="prompt_id")
        rows.append({"effect": found.effect, "ci_low": found.ci_low, "ci_high": found.ci_high})
    return pd.DataFrame(rows)


def false_positives(draws: pd.DataFrame) -> Rate:
    """The share of draws of `swapped` whose interval leaves out zero, with Wilson's interval."""
    outside = (draws["ci_low"] > 0) | (draws["ci_high"] < 0)
    return Rate(float(outside.mean()), *wilson(float(outside.mean()), len(draws), 0.95), len(draws), "Wilson")
