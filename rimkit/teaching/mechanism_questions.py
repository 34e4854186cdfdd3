"""The exercises of chapters 03 and 04. Checks compute the answers from the paper's digitised counts."""

from __future__ import annotations

from rimkit.teaching.exercises import Exercise

# ------------------------------------------------------------------------------------- chapter 03


ABOVE = {"refused": (98, 98), "fulfilled": (13, 21)}  # above the harm probe's threshold, of (digitised from Fig. 3)


def detector_gain() -> float:
    """Accuracy of "above the threshold is refused" minus that of always saying "refused", in points."""
    (above, refused), (wrong, fulfilled) = ABOVE.values()
    return 100 * ((above + fulfilled - wrong) - refused) / (refused + fulfilled)


def check_gain(answer) -> bool | str:
    gain, (_, refused), (wrong, fulfilled) = float(answer), *ABOVE.values()
    right, n = refused + fulfilled - wrong, refused + fulfilled
    gain = 100 * gain if 0 < abs(gain) < 0.2 else gain

    def near(value: float) -> bool:
        return abs(gain - value) < 0.6

    if near(detector_gain()):
        return True
    if near(100 * right / n):
        return "that is the accuracy itself; how much of it does always saying 'refused' reach as well?"
    if near(100 * (fulfilled - wrong) / fulfilled):
        return "that is the share of fulfilled requests that are caught; accuracy counts all requests."
    if near(100 * refused / n):
        return "that is the accuracy of always saying 'refused'."
    return "count the requests that each detector calls rightly, out of all of them."


# ------------------------------------------------------------------------------------- chapter 04


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
    "03": Exercise(
        "A detector that always agrees",
        "medium",
        "essential",
        10,
        "The gain in accuracy over always saying 'refused', in points.",
        check_gain,
        "There are 98 + 21 requests. Which of them does each detector call rightly?",
        f"`{detector_gain():.1f}`: always saying 'refused' is right for 98 of 119 requests. The probe is right for the same 98 "
        "and for the 8 fulfilled ones below its threshold. A curve that runs far apart for two groups of unlike size can be "
        "a small gain; and 13 of 21 fulfilled requests still lie on the 'harmful' side, as they should for a probe of harm.",
        expects="a number of points",
    ),
    "04": Exercise(
        "Twelve against fifteen",
        "medium",
        "essential",
        10,
        "The two-sided p value of Fisher's exact test, refusal heads against random heads.",
        check_fisher,
        "`fisher_exact([[12, 9], [15, 6]])`: rows are the two ablations, columns above and not above the threshold.",
        f"`{fisher('refusal heads', 'random heads'):.2f}`: a difference at least as large arises by chance about every other time. Against no "
        f"ablation (13 of 21) the p value is {fisher('refusal heads', 'nothing'):.2f}: it is the random control that moved. "
        "With 21 requests, only a very large effect could have been seen.",
        expects="a number between 0 and 1",
    ),
}
