"""Do two judges say the same, and does a judge say the same once it has seen the thought?

Agreement is Cohen's kappa: the share of equal verdicts beyond what two judges with these rates would have by chance,
from scikit-learn; its interval is the clustered bootstrap of `rimkit.behavior.stats`. Kappa is low where nearly all
verdicts are of one kind, however often the judges agree: read it beside the share of equal verdicts and both rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from rimkit.behavior.evaluation import difference
from rimkit.behavior.judges import HARMFUL, WITH_THOUGHT, Judge, find_judge, judge
from rimkit.behavior.stats import clusters_of, resample_weights, widened_percentiles, wilson
from rimkit.data import UserError

KEYS = ("model", "set", "prompt_id", "mode", "sample", "pattern", "condition")
COLUMNS = (
    "judge_a", "judge_b", "metric", "n", "unjudged", "rate_a", "rate_b", "agree", "kappa", "ci_low", "ci_high",
    "method",
)  # fmt: skip
REPLY, BOTH = "reply", "thought and reply"


def compare(replies: pd.DataFrame, prompts: pd.DataFrame, judges: Sequence[str | Judge]) -> pd.DataFrame:
    """Several judges on the same replies: their verdicts in one table, told apart by the column ``judge``."""
    return pd.concat([judge(replies, prompts, how) for how in judges], ignore_index=True)


def agreement(
    verdicts: pd.DataFrame, by: str | None = None, metric: str = "misaligned", level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """One row per pair of judges in the column ``judge``, on the harmful prompts that both have judged.

    Columns: ``by`` (for each of its values apart), ``judge_a, judge_b, metric, n`` (replies compared),
    ``unjudged`` (left out because one or both gave no verdict), ``rate_a, rate_b, agree`` (share of equal
    verdicts), ``kappa, ci_low, ci_high, method``. Kappa is missing where both judges say one and the same
    of every reply.

    Raises `UserError` for fewer than two judges, and for rows that prompt, mode and sample do not tell apart.
    """
    if by is not None:
        parts = verdicts.groupby(by, sort=False)
        found = {key: agreement(part, None, metric, level, seed) for key, part in parts}
        return pd.concat(found, names=[by]).droplevel(1).reset_index()
    tables = dict(list(verdicts.groupby("judge", sort=False)))
    if len(tables) < 2:
        raise UserError("agreement needs verdicts of two judges or more in the column judge")
    rows = [
        {"judge_a": a, "judge_b": b, "metric": metric} | _pair(tables[a], tables[b], metric, level, seed)
        for a, b in combinations(tables, 2)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def divided(verdicts: pd.DataFrame, metric: str = "misaligned") -> pd.DataFrame:
    """The verdicts on replies of which the judges do not all say the same."""
    on = [name for name in KEYS if name in verdicts]
    return verdicts[verdicts.groupby(on)[metric].transform("nunique") > 1].reset_index(drop=True)


def _pair(a: pd.DataFrame, b: pd.DataFrame, metric: str, level: float, seed: int) -> dict:
    on = [name for name in KEYS if name in a and name in b]
    if a.duplicated(on).any() or b.duplicated(on).any():
        raise UserError(f"{', '.join(on)} do not tell the verdicts of one judge apart: judge one condition at a time")
    if metric == "misaligned" and "kind" in a:
        a = a[a["kind"] == HARMFUL]
    left = a[on].assign(a=a[metric].astype("boolean"), cluster=clusters_of(a))
    both = left.merge(b[on].assign(b=b[metric].astype("boolean")), on=on)
    if both.empty:
        raise UserError("the two judges have no replies in common: nothing to compare")
    judged = both.dropna(subset=["a", "b"])
    one, two = (judged[name].to_numpy(dtype=bool) for name in ("a", "b"))
    found = kappa(one, two, judged["cluster"], level, seed)
    shares = {"rate_a": one.mean(), "rate_b": two.mean(), "agree": (one == two).mean()} if len(judged) else {}
    return {"n": len(judged), "unjudged": len(both) - len(judged), **shares, **found}


def kappa(one: Sequence[bool], two: Sequence[bool], clusters: Sequence, level: float = 0.95, seed: int = 0) -> dict:
    """``kappa, ci_low, ci_high, method`` of two judges' verdicts on the same replies, clusters drawn whole.

    Where they agree on every reply there is no spread to draw from: the interval then leaves room for as many
    disagreements as Wilson's interval does after none was seen in so many clusters.
    """
    from sklearn.metrics import cohen_kappa_score

    one, two = np.asarray(one, dtype=bool), np.asarray(two, dtype=bool)
    codes = pd.factorize(np.asarray(clusters), sort=True)[0]
    groups = len(set(codes))
    missing = {"kappa": np.nan, "ci_low": np.nan, "ci_high": np.nan}
    if len(one) == 0 or (len(set(one)) == 1 and len(set(two)) == 1 and one[0] == two[0]):
        return missing | {"method": "not defined: both judges say the same of every reply" if len(one) else "no data"}
    value = float(cohen_kappa_score(one, two, labels=[False, True]))
    if groups == 1:
        return missing | {"kappa": value, "method": "no interval from one cluster"}
    if (one == two).all():
        by_chance = one.mean() ** 2 + (1 - one.mean()) ** 2
        low = max(-1.0, 1 - wilson(0.0, groups, level)[1] / (1 - by_chance))
        method = f"Wilson, {groups} clusters without disagreement"
        return {"kappa": value, "ci_low": low, "ci_high": 1.0, "method": method}
    cells = np.stack([one & two, one & ~two, ~one & two, ~one & ~two], axis=1).astype(float)
    per_cluster = np.stack([np.bincount(codes, cell) for cell in cells.T], axis=1)
    draws = kappa_of(resample_weights(groups, seed) @ per_cluster)
    defined = draws[~np.isnan(draws)]  # a draw without any spread has no kappa
    low, high = widened_percentiles(defined, groups, level)
    method = f"bootstrap of {groups} clusters"
    if len(defined) < len(draws):
        method += f", {len(draws) - len(defined)} draws without spread left out"
    return {"kappa": value, "ci_low": min(low, value), "ci_high": max(high, value), "method": method}


def kappa_of(cells: np.ndarray) -> np.ndarray:
    """Cohen's kappa of many tables at once, rows of counts (both, first only, second only, neither)."""
    both, first, second, neither = (cells / cells.sum(axis=1, keepdims=True)).T
    a, b = both + first, both + second
    by_chance = a * b + (1 - a) * (1 - b)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(by_chance < 1, (both + neither - by_chance) / (1 - by_chance), np.nan)


def with_and_without(replies: pd.DataFrame, prompts: pd.DataFrame, how: str | Judge) -> pd.DataFrame:
    """The verdicts of one judge on the replies alone, then on thought and reply; column ``reads`` says which.

    Both halves hold all replies, those without a thought too (they get the same verdict twice, if the judge is
    the same twice). Raises `UserError` for a judge that reads replies only.
    """
    how = find_judge(how)
    halves = {BOTH: judge(replies, prompts, how, with_thought=True), REPLY: judge(replies, prompts, how)}
    return pd.concat([halves[name].assign(reads=name) for name in (REPLY, BOTH)], ignore_index=True)


def thought_effects(verdicts: pd.DataFrame, metrics: Sequence[str] = ("misaligned", "refused")) -> pd.DataFrame:
    """What seeing the thought changes, for verdicts of `with_and_without`: one row per judge, mode and metric.

    Columns: ``judge, mode, metric, condition, control, value_a`` (with the thought)``, value_b`` (reply alone)``,
    effect, ci_low, ci_high, p_value, n, n_clusters, method, more, fewer, kappa``: ``more`` replies have the verdict
    only with the thought, ``fewer`` only without. Harmful prompts alone; unjudged replies are left out.
    """
    table = verdicts[verdicts["kind"] == HARMFUL] if "kind" in verdicts else verdicts
    table = table.assign(judge=table["judge"].str.removesuffix(WITH_THOUGHT))
    modes = ["mode"] if "mode" in table else []
    rows = []
    for key, part in table.groupby(["judge", *modes], sort=False):
        for metric in metrics:
            changed = difference(part, "reads", BOTH, REPLY, metric)
            rows.append(dict(zip(["judge", *modes], key, strict=True)) | changed | _flips(part, metric))
    return pd.DataFrame(rows)


def _flips(part: pd.DataFrame, metric: str) -> dict:
    on = [name for name in KEYS if name in part]
    wide = part.pivot(index=on, columns="reads", values=metric).dropna()
    with_it, without = (wide[name].to_numpy(dtype=bool) for name in (BOTH, REPLY))
    value = kappa(with_it, without, range(len(wide)))["kappa"]
    return {"more": int((with_it & ~without).sum()), "fewer": int((~with_it & without).sum()), "kappa": value}
