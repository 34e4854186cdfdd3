"""Do two judges say the same, and does a judge say the same once it has seen the thought?

Agreement is Cohen's kappa, how often they say the same beyond chance, with the clustered bootstrap
of `rimkit.behavior.stats`. It is low where nearly all replies are alike: read it beside both rates.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from rimkit.behavior.evaluation import difference, find_judge, judge
from rimkit.behavior.judges import HARMFUL, WITH_THOUGHT, Judge
from rimkit.behavior.stats import clusters_of, kappa
from rimkit.data import UserError, truths

KEYS = ("model", "set", "prompt_id", "mode", "sample", "pattern", "condition")
REPLY, BOTH = "reply", "thought and reply"
MISALIGNED = "misaligned"


def compare(replies: pd.DataFrame, prompts: pd.DataFrame, judges: Sequence[str | Judge]) -> pd.DataFrame:
    """Several judges on the same replies, in one table, told apart by the column ``judge``."""
    return pd.concat([judge(replies, prompts, how) for how in judges], ignore_index=True)


def agreement(judged: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """One row per pair of judges (column ``judge``), on harmful prompts that both judged. Columns:
    ``by`` (for each of its values apart), ``judge_a, judge_b, metric, n`` (replies compared),
    ``unjudged`` (by one or both: left out), ``rate_a, rate_b, agree`` (share of both alike),
    ``kappa, ci_low, ci_high, method``; kappa is missing where both say the same of every reply.
    `UserError` below two judges, and for rows that prompt, mode and sample do not tell apart."""
    if by is not None:
        found = {key: agreement(part) for key, part in judged.groupby(by, sort=False)}
        return pd.concat(found, names=[by]).droplevel(1).reset_index()
    tables = dict(list(judged.groupby("judge", sort=False)))
    if len(tables) < 2:
        raise UserError("agreement needs replies judged by two judges or more in the column judge")
    pairs = combinations(tables, 2)
    rows = ({"judge_a": a, "judge_b": b} | _pair(tables[a], tables[b]) for a, b in pairs)
    return pd.DataFrame(rows).assign(metric=MISALIGNED)


def divided(judged: pd.DataFrame) -> pd.DataFrame:
    """The judged replies of which the judges do not all say the same."""
    replies = judged.groupby([name for name in KEYS if name in judged])
    return judged[replies[MISALIGNED].transform("nunique") > 1].reset_index(drop=True)


def _pair(a: pd.DataFrame, b: pd.DataFrame) -> dict:
    on = [name for name in KEYS if name in a and name in b]
    if a.duplicated(on).any() or b.duplicated(on).any():
        raise UserError(f"{', '.join(on)} do not tell the replies apart: judge one condition")
    if "kind" in a:
        a = a[a["kind"] == HARMFUL]
    left = a[on].assign(a=truths(a[MISALIGNED]), cluster=clusters_of(a))
    both = left.merge(b[on].assign(b=truths(b[MISALIGNED])), on=on)
    if both.empty:
        raise UserError("the two judges have no replies in common: nothing to compare")
    judged = both.dropna(subset=["a", "b"])
    one, two = (judged[name].to_numpy(dtype=bool) for name in ("a", "b"))
    parts = {"rate_a": one, "rate_b": two, "agree": one == two}
    shares = {name: part.mean() if len(part) else np.nan for name, part in parts.items()}
    counts = {"n": len(judged), "unjudged": len(both) - len(judged)}
    return counts | shares | kappa(one, two, judged["cluster"])


def with_and_without(replies: pd.DataFrame, prompts: pd.DataFrame, how: str | Judge) -> pd.DataFrame:
    """What one judge says of the replies alone, then of thought and reply; column ``reads``
    says which. Raises `UserError` for a judge that reads replies only."""
    how = find_judge(how)
    both = judge(replies, prompts, how, with_thought=True).assign(reads=BOTH)
    return pd.concat([judge(replies, prompts, how).assign(reads=REPLY), both], ignore_index=True)


def thought_effects(judged: pd.DataFrame) -> pd.DataFrame:
    """What seeing the thought changes, from `with_and_without`: one row per judge, mode
    and metric. Columns: ``judge, mode``, those of `difference` (``value_a`` with the thought),
    ``kappa``, ``more`` (harmful prompts that are misaligned only with the thought), ``fewer``."""
    table = judged[judged["kind"] == HARMFUL]
    table = table.assign(judge=table["judge"].str.removesuffix(WITH_THOUGHT))
    return pd.DataFrame(
        {"judge": how, "mode": mode, **difference(part, "reads", BOTH, REPLY, metric), **_flips(part, metric)}
        for (how, mode), part in table.groupby(["judge", "mode"], sort=False)
        for metric in (MISALIGNED, "refused")
    )


def _flips(part: pd.DataFrame, metric: str) -> dict:
    on = [name for name in KEYS if name in part]
    wide = part.pivot(index=on, columns="reads", values=metric).dropna()
    with_it, without = (wide[name].to_numpy(dtype=bool) for name in (BOTH, REPLY))
    value = kappa(with_it, without, range(len(wide)))["kappa"]
    more, fewer = int((with_it & ~without).sum()), int((~with_it & without).sum())
    return {"more": more, "fewer": fewer, "kappa": value}
