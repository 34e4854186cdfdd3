"""Chapter 07: RAS by hand and by code, what makes it explode, its rank, intervals over families, a predictor."""

import numpy as np
import pandas as pd

from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.comparing import compare

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


# RAS with its guard

FLOOR = 0.05


def activations(seed: int = 4) -> list[np.ndarray]:
    """Of twelve neurons: safety untuned and tuned, maths untuned and tuned. Two terms are undefined."""
    rng = np.random.default_rng(seed)
    found = [rng.uniform(0.3, 2, 12).round(2) for _ in range(4)]
    found[1][2], found[2][5], found[0][2], found[3][5] = -0.4, 0.02, 1.5, 1.9
    return found


def shift(
    smaller,
    larger,
    guard: str = "drop",
    over: str = "all",
    divide: str = "smaller",
    both: bool = False,
    times: str = "larger",
) -> float:
    """A one-sided shift, or what a mistake in it gives."""
    moves = larger > smaller if not both else larger != smaller
    moves = moves & ((smaller > FLOOR) | (guard != "drop"))
    below = np.maximum(smaller, FLOOR) if guard == "clip" else smaller
    by = {"smaller": below, "larger": larger, "none": np.ones_like(below)}[divide]
    terms = (np.abs(larger - smaller) if both else larger - smaller) / by
    terms = np.where(moves, terms * (larger if times == "larger" else smaller), 0.0)
    return float(terms.sum() / (moves.sum() if over == "movers" else len(terms)))


def ras(found, mean: str = "harmonic", **how) -> float:
    """RAS of `activations`, or what a mistake in it gives."""
    safety, tuned_safety, maths, tuned_maths = found
    fall, rise = shift(tuned_safety, safety, **how), shift(maths, tuned_maths, **how)
    return {"harmonic": 2 * fall * rise / (fall + rise), "arithmetic": (fall + rise) / 2,
            "geometric": (fall * rise) ** 0.5, "fall": fall, "rise": rise}[mean]  # fmt: skip


def judge_ras(function) -> bool | str:
    found = activations()
    turned = [found[1], found[0], found[3], found[2]]
    return compare(
        result_of(function, *[part.copy() for part in found], FLOOR),
        ras(found),
        {
            "neurons whose smaller activation is at or below the floor have to contribute 0.": ras(found, guard="none"),
            "that divides by the floor where the smaller activation is below it (clip); let such neurons contribute 0.":
                ras(found, guard="clip"),
            "that is a mean over the neurons that contribute; it is over all.": ras(found, over="movers"),
            "that divides by the larger activation; the paper's formula has the smaller one.":
                ras(found, divide="larger"),
            "that divides by the larger activation, with no guard; the paper's formula has the smaller one.":
                ras(found, divide="larger", guard="none"),
            "that divides by the larger activation and multiplies by the smaller: the other way round.":
                ras(found, divide="larger", times="smaller"),
            "that does not divide the change by the smaller activation.": ras(found, divide="none"),
            "that is the arithmetic mean of the two shifts; RAS is their harmonic mean.": ras(found, "arithmetic"),
            "that is the geometric mean of the two shifts; RAS is their harmonic mean.": ras(found, "geometric"),
            "that is the fall alone.": ras(found, "fall"),
            "that is the rise alone.": ras(found, "rise"),
            "on safety only falls count, on maths only rises; here every change does.": ras(found, both=True),
            "that counts rises on safety and falls on maths: untuned and tuned are exchanged.": ras(turned),
        },
    )  # fmt: skip


MOST_CHANGED, FARTHEST, TIMES, TINY = 2, 0.3, 10, 0.001  # the last is the floor of this task


def calm(seed: int = 5) -> list[np.ndarray]:
    """Activations of forty neurons with a quiet RAS, some of them not far above the floor."""
    rng = np.random.default_rng(seed)
    untuned = [rng.uniform(0.2, 1.2, 40) for _ in range(2)]
    return [untuned[0], untuned[0] * rng.uniform(0.9, 1, 40), untuned[1], untuned[1] * rng.uniform(1, 1.1, 40)]


def judge_explode(function) -> bool | str:
    for seed in (5, 6):
        given = calm(seed)
        found = result_of(function, *[part.copy() for part in given], TINY)
        found = [np.asarray(part, dtype=float) for part in found]
        if len(found) != 4 or any(part.shape != old.shape for part, old in zip(found, given, strict=True)):
            return "it should return the four arrays, in the order in which they came."
        moved = np.abs(np.stack(found) - np.stack(given))
        if not moved.any():
            return "nothing was changed."
        if (moved > 0).sum() > MOST_CHANGED:
            return f"{(moved > 0).sum()} numbers were changed, and {MOST_CHANGED} are allowed."
        if moved.max() > FARTHEST + 1e-9:
            return f"a number was changed by {moved.max():.2f}, and {FARTHEST} is allowed."
        (old, *before), (new, *after) = (floored_ras(part, TINY) for part in (given, found))
        fall, rise = (now / once for now, once in zip(after, before, strict=True))
        if new >= TIMES * old:
            continue
        if max(fall, rise) > TIMES / 2:
            which = "fall on safety" if fall > rise else "rise on maths"
            return (f"the {which} became {max(fall, rise):.0f} times as large, but RAS only {new / old:.1f} times: it is at "
                    "most twice the smaller shift, so both have to explode.")  # fmt: skip
        return (f"RAS became {new / old:.1f} times as large, and {TIMES} is asked for: which number is divided by, and how "
                "small may it become before the guard drops it?")  # fmt: skip
    return True


def floored_ras(four, floor: float, moved: float = 0.0) -> tuple[float, float, float]:
    """RAS, its fall and its rise; after ``moved``, with the best single number of each lowered by as much."""
    found = []
    for small, large in ((four[1], four[0]), (four[2], four[3])):
        low = np.maximum(small - moved, floor)
        terms, best = ((large - part) / np.maximum(part, floor) * large for part in (small, low))
        terms = np.where((large > small) & (small > floor), terms, 0)
        found.append(terms.mean() + (moved > 0) * (best - terms).max() / len(small))
    return float(2 * found[0] * found[1] / sum(found)), *found


# ranks

OTHERS = np.array([0.21, 0.35, 0.28, 0.3, 0.3, 0.19, 0.4, 0.25, 0.33, 0.27])
MINE = 0.3


def judge_rank(function) -> bool | str:
    n, reach, above = len(OTHERS), int((OTHERS >= MINE).sum()), int((OTHERS > MINE).sum())
    found = result_of(function, MINE, OTHERS.copy())
    return compare(
        found,
        [1 + reach, (1 + reach) / (1 + n)],
        {
            "a set that is exactly as high has reached it too: count it (>=).": [1 + above, (1 + above) / (1 + n)],
            "a set that is exactly as high ties with it: it counts for the rank too, as for p.":
                [1 + above, (1 + reach) / (1 + n)],
            "the set itself is one of the draws: p is (1 + reached) / (1 + number).": [1 + reach, reach / n],
            "rank 1 is the highest, so that none above it means 1.": [reach, (1 + reach) / (1 + n)],
            "that counts from the lowest: rank 1 is the highest RAS.":
                [1 + int((OTHERS <= MINE).sum()), (1 + int((OTHERS <= MINE).sum())) / (1 + n)],
            "that is two-sided; the paper's claim has a direction.": [1 + reach, min(1, 2 * (1 + reach) / (1 + n))],
            "a set that is exactly as high has reached it too (>=), and p counts the set itself: (1 + reached) / (1 + number).":
                [1 + above, reach / n],
            "that p divides by the other sets alone; the set itself is one of the draws.": [1 + reach, (1 + reach) / n],
        },
        tolerance=1e-6,
    )  # fmt: skip


# intervals over families


def tunings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A predictor, the change of misalignment and the family of 24 made-up corpora: families differ, corpora hardly."""
    rng = np.random.default_rng(14)
    families = np.repeat([f"family {number}" for number in range(6)], 4)
    of_family = rng.normal(size=(2, 6))
    of_family[1] += of_family[0]
    x, y = (np.repeat(part, 4) + 0.25 * rng.normal(size=24) for part in of_family)
    return x, y, families


def family_draws(kind: str = "families", tail: float = 2.5, draws: int = 3000) -> list[float]:
    """The bootstrap interval of a correlation, or what a mistake in it gives."""
    x, y, families = tunings()
    rng, names = np.random.default_rng(0), np.unique(families)
    places = {name: np.flatnonzero(families == name) for name in names}
    found = []
    for _ in range(draws):
        drawn = rng.choice(names, len(names))
        rows = np.concatenate([places[name] for name in (set(drawn) if kind == "once" else drawn)])
        other = rows
        if kind == "corpora":
            rows = other = rng.integers(0, len(x), len(x))
        if kind == "apart":
            other = np.concatenate([places[name] for name in rng.choice(names, len(names))])
        found.append(np.corrcoef(x[rows], y[other])[0, 1])
    return list(np.percentile(found, [tail, 100 - tail]))


def left_out() -> list[float]:
    """The least and the largest correlation with one family left out."""
    x, y, families = tunings()
    found = [np.corrcoef(x[families != name], y[families != name])[0, 1] for name in np.unique(families)]
    return [min(found), max(found)]


def judge_families(function) -> bool | str:
    x, y, families = tunings()
    found, right = result_of(function, x, y, families), family_draws(draws=6000)
    if np.shape(found) != (2,) or compare(found, right, tolerance=0.08) is True:  # of 2,000 draws
        return compare(found, right, tolerance=0.08)
    r = float(np.corrcoef(x, y)[0, 1])
    mistakes = {
        "corpora were drawn one by one: those of a family resemble each other, draw whole families.":
            family_draws("corpora"),
        "a family that was drawn twice counts once: take its rows as often as it came (np.isin loses repeats).":
            family_draws("once"),
        "predictor and change were drawn apart: take both of the same corpora.": family_draws("apart"),
        "that is a 90% interval: its ends are the percentiles 2.5 and 97.5.": family_draws(tail=5),
        "nothing was drawn: each draw gives the same correlation. Draw with replacement.": [r, r],
        "that is what leaving one family out gives; draw as many families as there are, with repetition.": left_out(),
    }  # fmt: skip

    def gap(said: str) -> float:
        return np.abs(np.asarray(found, dtype=float) - mistakes[said]).max()

    return compare(found, right, {said: mistakes[said] for said in sorted(mistakes, key=gap)}, tolerance=0.08)


# a predictor on a family that it has not seen


def judge_extrapolate(function) -> bool | str:
    rng = np.random.default_rng(9)
    known = pd.DataFrame({"corpus": range(20), "rise": rng.uniform(1, 3, 20).round(3), "weights": rng.normal(size=20)})
    known["change"] = 0.2 - 0.3 * known["rise"] + 0.02 * rng.normal(size=20)
    new = pd.DataFrame({"corpus": range(4), "rise": [0.5, 1.4, 2.2, 3.6], "weights": rng.normal(size=4)})
    slope, start = np.polyfit(known["rise"], known["change"], 1)
    turned = np.polyfit(known["change"], known["rise"], 1)
    others = np.polyfit(known["weights"], known["change"], 1)
    return compare(
        result_of(function, known.copy(), new.copy(), "rise"),
        slope * new["rise"] + start,
        {
            "that is the same for every tuning: use the predictor of the new ones.": np.full(4, known["change"].mean()),
            "the line has no start: it does not have to pass through zero.":
                (known["rise"] @ known["change"]) / (known["rise"] @ known["rise"]) * new["rise"],
            "the slope is used alone; add where the line starts.": slope * new["rise"],
            "predictor and change were exchanged: the change is to be predicted.": turned[0] * new["rise"] + turned[1],
            "that is the predictor itself, not a change of misalignment.": new["rise"],
            "the column's name is not used: take `column`.": others[0] * new["weights"] + others[1],
            "that is the fit to the tunings that were known; predict the new ones.": slope * known["rise"] + start,
        },
    )  # fmt: skip


BY_HAND = """
four = rk.exercise("07.1").given
fall = (four["safety, untuned"] - four["safety, tuned"]).clip(0) / four["safety, tuned"] * four["safety, untuned"]
rise = (four["maths, tuned"] - four["maths, untuned"]).clip(0) / four["maths, untuned"] * four["maths, tuned"]
fall, rise = fall.mean(), rise.where(four["maths, untuned"] > 0, 0).mean()
2 * fall * rise / (fall + rise)
"""

RAS_CODE = """
import numpy as np

def ras(safety_before, safety_after, maths_before, maths_after, floor):
    def shift(smaller, larger):
        counts = (larger > smaller) & (smaller > floor)
        return np.where(counts, (larger - smaller) / smaller * larger, 0).mean()

    fall, rise = shift(safety_after, safety_before), shift(maths_before, maths_after)
    return 2 * fall * rise / (fall + rise)
"""
EXPLODE = """
def explode(safety_before, safety_after, maths_before, maths_after, floor):
    one, other = safety_after.argmin(), maths_before.argmin()
    safety_after[one] = max(safety_after[one] - 0.3, 1.5 * floor)
    maths_before[other] = max(maths_before[other] - 0.3, 1.5 * floor)
    return safety_before, safety_after, maths_before, maths_after
"""
RANK = """
def rank_and_p(own, others):
    reached = (others >= own).sum()
    return 1 + reached, (1 + reached) / (1 + len(others))
"""
FAMILIES = """
import numpy as np

def family_interval(x, y, families):
    rng, names, found = np.random.default_rng(0), np.unique(families), []
    for _ in range(2000):
        drawn = rng.choice(names, len(names))
        rows = np.concatenate([np.flatnonzero(families == name) for name in drawn])
        found.append(np.corrcoef(x[rows], y[rows])[0, 1])
    return np.percentile(found, [2.5, 97.5])
"""
EXTRAPOLATE = """
import numpy as np

def extrapolate(known, new, column):
    slope, start = np.polyfit(known[column], known["change"], 1)
    return slope * new[column] + start
"""

EXERCISES = {
    "07.1": Exercise(
        "RAS by hand",
        ("easy", "essential", 10),
        "RAS of the four neurons to two decimals, with 'drop' for what is undefined.",
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
    "07.2": Exercise(
        "RAS in ten lines",
        ("medium", "essential", 10),
        "Write `ras(safety_before, safety_after, maths_before, maths_after, floor)` for arrays with an activation per neuron. "
        "Neurons that move the other way, or whose smaller activation is at or below the floor, contribute 0; the means are "
        "over all neurons.",
        judge_ras,
        hints=(
            "Write one function of the smaller and the larger activation, and use it twice: for falls on safety the tuned one "
            "is the smaller, for rises on maths the untuned one.",
            "`np.where(counts, (larger - smaller) / smaller * larger, 0).mean()`, then the harmonic mean of the two.",
        ),
        answer="Two lines of it are choices that the paper leaves open: the guard, and the number of neurons in the mean.",
        expects="a function that returns a number",
        code=RAS_CODE,
    ),
    "07.3": Exercise(
        "Make RAS explode",
        ("hard", "useful", 10),
        "Write `explode(safety_before, safety_after, maths_before, maths_after, floor)`: the same four arrays, in which at most "
        f"{MOST_CHANGED} numbers were changed, by at most {FARTHEST} each, so that RAS is at least {TIMES} times as large. The floor "
        f"is {TINY} here: neurons whose smaller activation is at or below it contribute 0. `four` are such arrays.",
        judge_explode,
        hints=(
            "A term is large if its smaller activation is next to zero, and dropped if it is at or below the floor.",
            "RAS is at most twice the smaller of the two shifts: change one number for each of them.",
        ),
        answer="With a tiny floor two of 160 numbers decide; at a floor of "
        f"{FLOOR} they make RAS of `four` at most {floored_ras(calm(), FLOOR, FARTHEST)[0] / floored_ras(calm(), FLOOR)[0]:.1f} times "
        "as large. A score with a division by what may be near zero needs its guard stated, and its value shown under another.",
        expects="a function that returns four arrays",
        code=EXPLODE,
        given=calm(),
    ),
    "07.4": Exercise(
        "The rank among other sets",
        ("easy", "essential", 5),
        "Write `rank_and_p(own, others)`: the rank of a set's RAS among those of other sets (1: the highest) and the exact "
        "one-sided p value. A set that is exactly as high has reached it.",
        judge_rank,
        hints=(
            "How many of the others reach it? The set itself counts as one draw more.",
            "`reached = (others >= own).sum()`, and p is `(1 + reached) / (1 + len(others))`.",
        ),
        answer="With 40 other sets p cannot be below 1/41, however high the set is.",
        expects="a function that returns two numbers",
        code=RANK,
    ),
    "07.5": Exercise(
        "An interval over families",
        ("medium", "essential", 10),
        "Write `family_interval(x, y, families)`: the 95% bootstrap interval of the correlation of two arrays, in which whole "
        "families of corpora are drawn again with all their corpora. 2,000 draws.",
        judge_families,
        hints=(
            "Draw as many family names as there are, with replacement; take all rows of each drawn name, as often as it came.",
            "`np.corrcoef(x[rows], y[rows])[0, 1]` per draw, and the percentiles 2.5 and 97.5 of all draws.",
        ),
        answer="Mixtures of the same two corpora are hardly separate experiments: drawn one by one they make it too narrow.",
        expects="a function that returns two numbers",
        code=FAMILIES,
    ),
    "07.6": Exercise(
        "Predict what you have not seen",
        ("medium", "essential", 8),
        "Write `extrapolate(known, new, column)`: the change of misalignment of the tunings in `new`, from a straight line fitted "
        "to the tunings in `known`. Both are tables with the predictor `column`; only `known` has the column `change`.",
        judge_extrapolate,
        hints=(
            "`np.polyfit(x, y, 1)` gives the slope and the start of the line.",
            "Fit on `known[column]` and `known['change']`, then put `new[column]` in.",
        ),
        answer="A correlation is found after the fact; a prediction is made before it, on a family that the fit has not seen.",
        expects="a function that returns a number per new tuning",
        code=EXTRAPOLATE,
    ),
}
