"""Chapter 01: intervals of a difference between modes."""

from __future__ import annotations

import pandas as pd

from rimkit.behavior.stats import paired_difference
from rimkit.teaching.exercises import Exercise

COMPLIED = {"nick": (2, 10), "sink": (1, 1), "forge": (1, 1), "occupy": (1, 0)}  # of ten: no-think, think


def colleague() -> pd.DataFrame:
    """The colleague's forty requests in both modes: ``prompt_id, cluster`` (the verb)``, mode, misaligned``."""
    rows = [
        {"prompt_id": f"{verb}-{number}", "cluster": verb, "mode": mode, "misaligned": number < complied}
        for verb, counts in COMPLIED.items()
        for mode, complied in zip(("no-think", "think"), counts, strict=True)
        for number in range(10)
    ]
    return pd.DataFrame(rows)


def colleague_interval(cluster: str | None) -> tuple[float, float]:
    """The interval of think minus no-think in points, with requests drawn by ``cluster`` or (None) one by one."""
    table = colleague()
    think, no_think = (table[table["mode"] == mode] for mode in ("think", "no-think"))
    found = paired_difference(think, no_think, "misaligned", on="prompt_id", cluster=cluster)
    return 100 * found.ci_low, 100 * found.ci_high


def check_interval(answer) -> bool | str:
    low, high = sorted(float(bound) for bound in answer)
    if max(abs(low), abs(high)) <= 1:
        low, high = 100 * low, 100 * high

    def near(interval: tuple[float, float]) -> bool:
        return abs(low - interval[0]) < 2 and abs(high - interval[1]) < 2

    if near(colleague_interval("cluster")):
        return True
    if near(colleague_interval(None)):
        return "that treats forty requests as independent; requests with one verb stand and fall together."
    if near(tuple(-bound for bound in reversed(colleague_interval("cluster")))):
        return "the sign is turned around: think minus no-think, so that more misalignment is positive."
    return "these are not the bounds of think minus no-think in points, paired by request and clustered by verb."


CLUSTERED = """
found = rk.stats.paired_difference(think, no_think, "misaligned", on="prompt_id")
(100 * found.ci_low, 100 * found.ci_high)
"""

EXERCISES = {
    "01.1": Exercise(
        "Doubled?",
        "medium",
        "essential",
        10,
        "The 95% interval of think minus no-think in points, as it should have been reported.",
        check_interval,
        hints=(
            '`paired_difference(think, no_think, "misaligned", on="prompt_id")` pairs by request; '
            "what does its `cluster` do?",
        ),
        answer=(
            '`found = paired_difference(think, no_think, "misaligned", on="prompt_id")` and then '
            "`mine = (100 * found.ci_low, 100 * found.ci_high)`: with whole verbs drawn again the interval is wide and holds "
            "zero; with requests drawn one by one (`cluster=None`) it does not. Another forty requests with the same four "
            "verbs would not help; more verbs would."
        ),
        expects="two numbers: the lower and the upper bound, in points",
        code=CLUSTERED,
        given=colleague(),
    ),
}
