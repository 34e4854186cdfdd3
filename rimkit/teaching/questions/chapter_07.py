"""Chapter 07: RAS by hand."""

import pandas as pd

from rimkit.teaching.exercises import Exercise

# Four neurons: activation untuned and tuned on safety requests, and on maths.
FOUR_NEURONS = pd.DataFrame(
    {
        "safety, untuned": [3.0, 1.0, 2.0, 1.5],
        "safety, tuned": [2.0, 2.0, 1.0, 1.0],
        "maths, untuned": [1.0, 4.0, -0.5, 2.0],
        "maths, tuned": [2.0, 3.0, 1.0, 4.0],
    },
    index=pd.Index(["A", "B", "C", "D"], name="neuron"),
)


def four_neurons_ras(movers_only: bool = False, negative: bool = False) -> float:
    """RAS of `FOUR_NEURONS`; wrong on purpose if over neurons that count only, or if a negative smaller value counts."""
    found = []
    for smaller, larger in (("safety, tuned", "safety, untuned"), ("maths, untuned", "maths, tuned")):
        below, above = FOUR_NEURONS[smaller], FOUR_NEURONS[larger]
        counts = (above > below) & ((below > 0) | negative)
        terms = ((above - below) / below * above)[counts]
        found.append(terms.sum() / (counts.sum() if movers_only else len(FOUR_NEURONS)))
    fall, rise = found
    return float(2 * fall * rise / (fall + rise))


def check_ras(answer) -> bool | str:
    ras = float(answer)
    if abs(ras - four_neurons_ras()) < 0.01:
        return True
    if abs(ras - four_neurons_ras(negative=True)) < 0.01:
        return "that divides neuron C's rise by -0.5: a rise would then lower the mean. With 'drop' it contributes 0."
    if abs(ras - four_neurons_ras(movers_only=True)) < 0.01:
        return "that divides by the neurons that contribute; the mean is over all four."
    return "it is not the harmonic mean of the fall on safety and the rise on maths, each a mean over four neurons."


BY_HAND = """
four = rk.exercise("07").given
fall = (four["safety, untuned"] - four["safety, tuned"]).clip(0) / four["safety, tuned"] * four["safety, untuned"]
rise = (four["maths, tuned"] - four["maths, untuned"]).clip(0) / four["maths, untuned"] * four["maths, tuned"]
fall, rise = fall.mean(), rise.where(four["maths, untuned"] > 0, 0).mean()
2 * fall * rise / (fall + rise)
"""

EXERCISES = {
    "07.1": Exercise(
        "RAS by hand",
        ("easy", "essential", 10),
        "RAS of the four neurons, with 'drop' for what is undefined.",
        check_ras,
        hints=(
            "On safety only falls count, divided by the tuned value; on maths only rises, divided by the untuned one. Which neuron has no term?",
        ),
        answer=(
            "Fall: A 1/2 * 3 = 1.5, B rises, C 1/1 * 2 = 2, D 0.5/1 * 1.5 = 0.75, mean 4.25/4 = 1.06. Rise: A 1/1 * 2 = 2, B falls, "
            "C is undefined (its untuned value is below zero), D 2/2 * 4 = 4, mean 6/4 = 1.5. RAS: `2 * 1.0625 * 1.5 / (1.0625 + 1.5)` = 1.24. "
            "C's response to maths changed most of all and counts nothing; clipped at 0.01 its term alone would be 150."
        ),
        expects="a number",
        code=BY_HAND,
        given=FOUR_NEURONS,
    ),
}
