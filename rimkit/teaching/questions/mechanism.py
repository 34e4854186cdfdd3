"""The exercises of chapters 03, 04 and 06. Checks compute the answers, for 03 and 04 from the paper's digitised counts."""

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


# ------------------------------------------------------------------------------------- chapter 06

# Eight neurons of a layer in three pairs, from the largest rise of the maximum to the smallest.
RISES = {"pair 1": "cfahbedg", "pair 2": "faechgbd", "pair 3": "bfhacdge"}


def size_of_set(m: int, pairs: int = len(RISES)) -> int:
    """How many neurons are among the first ``m`` of at least ``pairs`` of the three pairs."""
    return sum(sum(neuron in order[:m] for order in RISES.values()) >= pairs for neuron in "abcdefgh")


def smallest_m(neurons: int, pairs: int = len(RISES)) -> int:
    """The smallest m with which that many neurons are found."""
    return next(m for m in range(1, 9) if size_of_set(m, pairs) >= neurons)


def check_m(answer) -> bool | str:
    m = float(answer)
    if m == smallest_m(2):
        return True
    if m == smallest_m(2, pairs=2):
        return "that is enough for two of the three pairs; the paper's rule asks for every pair."
    if m == smallest_m(1):
        return "two neurons are taken from each pair then, and only one of them is the same in all three."
    if m != round(m) or not 1 <= m <= 8:
        return "m counts neurons of a pair: a whole number from 1 to 8."
    return f"with m = {m:.0f} the set has {size_of_set(int(m))} neurons."


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
    "06": Exercise(
        "Which m?",
        "easy",
        "essential",
        10,
        "With which m does the paper's rule give exactly two neurons?",
        check_m,
        "Write down, for every neuron, its worst rank over the three pairs: with m equal to that rank it enters the set.",
        f"`m = {smallest_m(2)}`. Worst ranks: f 2, a 4, c and h 5, b 7, d, e and g 8. The set has one neuron from m = 2, two "
        f"from m = {smallest_m(2)}, four from m = 5, and all eight from m = 8, whatever the neurons do. Neither m nor the "
        "size follows from the model: one of them must be given for a set to be repeated, and the paper gives neither.",
        expects="a whole number from 1 to 8",
    ),
}
