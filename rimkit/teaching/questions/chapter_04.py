"""Chapter 04: a difference between two ablations, from the counts of Fig. 5."""

from __future__ import annotations

from rimkit.teaching.exercises import Exercise

ABLATED = {"refusal heads": 12, "nothing": 13, "random heads": 15}  # fulfilled requests above threshold, of 21 (Fig. 5)


def fisher(one: str, other: str, alternative: str = "two-sided") -> float:
    """Fisher's exact p value for two rows of `ABLATED`."""
    from scipy.stats import fisher_exact

    return float(fisher_exact([[ABLATED[name], 21 - ABLATED[name]] for name in (one, other)], alternative).pvalue)


def check_fisher(answer) -> bool | str:
    found = float(answer)
    if not 0 <= found <= 1:
        return "a p value lies between 0 and 1."
    if abs(found - fisher("refusal heads", "random heads")) < 0.006:
        return True
    if abs(found - fisher("refusal heads", "random heads", "less")) < 0.006:
        return "that is the one-sided p value, and the direction was not fixed beforehand."
    if abs(found - fisher("refusal heads", "nothing")) < 0.006:
        return "that compares the refusal heads with no ablation at all: instructive, but not what was asked."
    return "the table has two rows (refusal heads, random heads) and two columns (above, not above the threshold)."


EXERCISES = {
    "04.1": Exercise(
        "Twelve against fifteen",
        "medium",
        "essential",
        10,
        "The two-sided p value of Fisher's exact test, refusal heads against random heads.",
        check_fisher,
        hints=(
            "`fisher_exact([[12, 9], [15, 6]])`: rows are the two ablations, columns above and not above the threshold.",
        ),
        answer=(
            f"`{fisher('refusal heads', 'random heads'):.2f}`: a difference at least as large arises by chance about every other time. Against no "
            f"ablation (13 of 21) the p value is {fisher('refusal heads', 'nothing'):.2f}: it is the random control that moved. "
            "With 21 requests, only a very large effect could have been seen."
        ),
        expects="a number between 0 and 1",
    ),
}
