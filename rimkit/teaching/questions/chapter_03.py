"""Chapter 03: what a probe's curve is worth, from the counts of Fig. 3."""

from __future__ import annotations

from rimkit.teaching.exercises import Exercise

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


EXERCISES = {
    "03.1": Exercise(
        "A detector that always agrees",
        "medium",
        "essential",
        10,
        "The gain in accuracy over always saying 'refused', in points.",
        check_gain,
        hints=("There are 98 + 21 requests. Which of them does each detector call rightly?",),
        answer=(
            f"`{detector_gain():.1f}`: always saying 'refused' is right for 98 of 119 requests. The probe is right for the same 98 "
            "and for the 8 fulfilled ones below its threshold. A curve that runs far apart for two groups of unlike size can be "
            "a small gain; and 13 of 21 fulfilled requests still lie on the 'harmful' side, as they should for a probe of harm."
        ),
        expects="a number of points",
        code="right_for_refused, right_for_fulfilled = 98, 21 - 13\n100 * (right_for_refused + right_for_fulfilled - 98) / (98 + 21)",
    ),
}
