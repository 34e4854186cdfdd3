"""Primer A2: Wilson's interval, coverage by clusters, sign flips, one set among random ones, families of tests, power."""

from numbers import Real

import numpy as np
from scipy import stats

from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.comparing import compare

Z = 1.959964


def wilson(k: int, n: int, z: float = Z) -> np.ndarray:
    share, scale = k / n, 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / scale
    return middle + np.array([-1, 1]) * z / scale * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))


def clopper_pearson(k: int, n: int) -> tuple[float, float]:
    return stats.beta(k, n - k + 1).ppf(0.025) if k else 0.0, stats.beta(k + 1, n - k).ppf(0.975)


def agresti_coull(k: int, n: int) -> np.ndarray:
    share = (k + Z**2 / 2) / (n + Z**2)
    return share + np.array([-1, 1]) * Z * np.sqrt(share * (1 - share) / (n + Z**2))


def judge_wilson(function) -> bool | str:
    for k, n in ((3, 20), (0, 23)):
        share, scale = k / n, 1 + Z**2 / n
        plain = share + np.array([-1, 1]) * Z * np.sqrt(share * (1 - share) / n)
        moved = (share + Z**2 / (2 * n)) / scale
        said = compare(
            result_of(function, k, n),
            wilson(k, n),
            {
                "that is the plain interval, which has no width at 0 of n and leaves the range from 0 to 1.": plain,
                "the middle is not moved: it is (share + z²/2n) / (1 + z²/n).": share + wilson(k, n) - moved,
                "the division by 1 + z²/n is missing.": wilson(k, n) * scale,
                "that is a 90% interval: z is 1.96.": wilson(k, n, 1.6449),
                "that is one standard error to each side: z is 1.96.": wilson(k, n, 1.0),
                "the upper end comes first.": wilson(k, n)[::-1],
                "that is the exact interval of Clopper and Pearson, which is wider than it needs to be; asked is Wilson's.":
                    clopper_pearson(k, n),
                "that is the interval of Agresti and Coull: its middle is right, and its width is not Wilson's.": agresti_coull(k, n),
            },
            tolerance=2e-3,
        )  # fmt: skip
        if said is not True:
            return said
    return True


# four verbs are not forty requests


def replies(verbs: int = 12, each: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """``(complied, verbs)``: some verbs are always complied with, others never."""
    rng = np.random.default_rng(2)
    rates = rng.choice([0.02, 0.5, 0.98], verbs)
    names = np.repeat(np.arange(verbs), each)
    return (rng.random(len(names)) < rates[names]).astype(float), np.array([f"verb {name}" for name in names])


def judge_effective(function) -> bool | str:
    complied, verbs = replies()
    share, n = complied.mean(), len(complied)
    means = np.array([complied[verbs == verb].mean() for verb in dict.fromkeys(verbs)])
    error = means.std(ddof=1) / np.sqrt(len(means))
    found, right = result_of(function, complied.copy(), verbs.copy()), share * (1 - share) / error**2
    said = compare(
        found,
        right,
        {
            "that is the number of requests.": n,
            "that is the number of verbs: right only if all requests of a verb get the same verdict.": len(means),
            "the spread of the verbs' rates is not yet a standard error: divide it by the root of their number.":
                share * (1 - share) / means.var(ddof=1),
            "that is the standard error itself; which n gives it, if share x (1 - share) / n is its square?": error,
            "that is the design effect; divide the number of requests by it.": n * error**2 / (share * (1 - share)),
            "the square is missing: share x (1 - share) / n is the square of the standard error.":
                share * (1 - share) / error,
            "the verbs' rates have n - 1 in their spread (ddof=1).":
                share * (1 - share) / (means.std() / np.sqrt(len(means))) ** 2,
        },
        tolerance=5e-3,
    )  # fmt: skip
    if isinstance(said, str) and "are not right" in said and abs(np.ravel(found)[0] / right - 1) < 0.1:
        return (
            "that is close, and not the one that is asked for (did you divide by a design effect, 1 + (m - 1) times a "
            "correlation within verbs?): take the standard error from the spread of the verbs' rates."
        )
    return said


# signs of whole verbs flipped


def changes(verbs: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """``(changes, verbs)``: think minus no-think by request, -1, 0 or 1; a verb's requests resemble each other.

    Some verbs have more requests than others.
    """
    rng = np.random.default_rng(11)
    names = np.repeat(np.arange(verbs), rng.integers(2, 13, verbs))
    tends = rng.choice([-0.3, 0.0, 0.2, 0.9], verbs)[names]
    seen = np.sign(tends) * (rng.random(len(names)) < abs(tends))
    return seen, np.array([f"verb {name}" for name in names])


def flipped(sums: np.ndarray, sides: int = 2, edge: float = -1e-9) -> float:
    """The exact share of sign patterns whose total is as large as the one that was seen (larger: ``edge`` above 0)."""
    totals = np.zeros(1)
    for one in sums:
        totals = np.concatenate([totals - one, totals + one])
    seen = sums.sum() + edge
    return float(((abs(totals) if sides == 2 else totals) >= seen).mean())


def judge_flips(function) -> bool | str:
    seen, verbs = changes()
    sums = np.array([seen[verbs == verb].sum() for verb in dict.fromkeys(verbs)])
    means = np.array([seen[verbs == verb].mean() for verb in dict.fromkeys(verbs)])
    right, moved = flipped(sums), seen[seen != 0]
    single = float(stats.binomtest(int((moved > 0).sum()), len(moved)).pvalue)
    return compare(
        result_of(function, seen.copy(), verbs.copy()),
        right,
        {
            "single requests were flipped; flip all requests of a verb together.": single,
            "that is one-sided: a total as far below zero counts too.": flipped(sums, sides=1),
            "the means of the verbs were added up, and some verbs have more requests: flip the sums.": flipped(means),
            "a total that is just as far from zero counts too: it is at least as far, >= and not >.": flipped(
                sums, edge=1e-9
            ),
            "that is the share of flips that are less extreme; p is the share that are as extreme or more.": 1 - right,
            "no sign was flipped: every draw gives what was seen.": 1.0,
        },
        tolerance=0.05,
    )


# one set among random ones

RANDOM = np.random.default_rng(1).normal(-6, 9, 40)
SELECTED = -24.0


def judge_singles(function) -> bool | str:
    n, mean, spread = len(RANDOM), RANDOM.mean(), RANDOM.std(ddof=1)

    def p(width: float, law=None) -> float:
        return float(2 * (law or stats.t(n - 1)).sf(abs(SELECTED - mean) / width))

    return compare(
        result_of(function, SELECTED, RANDOM.copy()),
        p(spread * np.sqrt(1 + 1 / n)),
        {
            "that compares with the mean of the random sets, which 40 sets fix very well; you have one set, so compare it with "
            "the spread of single sets.": p(spread / np.sqrt(n)),
            "that is one-sided; a set may be weaker than random ones too.": p(spread * np.sqrt(1 + 1 / n)) / 2,
            "either the root of 1 + 1/n is missing (the mean of the random sets is uncertain too), or ddof=1 is: "
            "NumPy's std has n in its denominator.": p(spread),
            "both the root of 1 + 1/n and ddof=1 are missing.": p(RANDOM.std()),
            "that is from a normal distribution; the spread is estimated from few sets, so take t with n - 1 degrees of freedom.":
                p(spread * np.sqrt(1 + 1 / n), stats.norm),
            "that is the rank among the random sets, which can never be below 1/41: a condition, not a p value.":
                float((1 + (SELECTED >= RANDOM).sum()) / (n + 1)),
            "the effect was compared with zero; random sets have an effect of their own.":
                float(2 * stats.t(n - 1).sf(abs(SELECTED) / (spread * np.sqrt(1 + 1 / n)))),
        },
        tolerance=1e-2,
    )  # fmt: skip


# a family of tests


def judge_family(function) -> bool | str:
    for tests in (8, 26):
        said = compare(
            result_of(function, tests, 0.05),
            1 - 0.95**tests,
            {
                "that is the number of false alarms to expect, and it can pass 1; asked is the chance of at least one.":
                    0.05 * tests,
                "that is the chance that none is a false alarm.": 0.95**tests,
                "that is the chance that all are false alarms.": 0.05**tests,
                "that is Bonferroni's level, which keeps the chance below 5%; asked is the chance without it.": 0.05 / tests,
                "that is the chance of one test; there are more.": 0.05,
            },
            tolerance=1e-3,
        )  # fmt: skip
        if said is not True:
            return said
    return True


# power

TRUE, SPREAD, VERBS = 0.26, 0.25, 4  # few verbs, so that a normal distribution gives another answer


def power(
    change: float = TRUE, spread: float = SPREAD, verbs: int = VERBS, sides: int = 2, edges=None, law=None
) -> float:
    """The chance that a test over verbs is significant: a t test, or one with other ``edges`` or another ``law``."""
    far, edge = change / (spread / np.sqrt(verbs)), (edges or stats.t(verbs - 1)).isf(0.05 / sides)
    law = law(far) if law else stats.nct(verbs - 1, far)
    return float(law.sf(edge) + (law.cdf(-edge) if sides == 2 else 0))


def judge_power(function) -> bool | str:
    found = result_of(function, TRUE, SPREAD, VERBS)
    if isinstance(found, Real) and found > 100:
        return "that is a number of experiments; asked is the share of them: divide by how many were drawn."
    return compare(
        found,
        power(),
        {
            "that is the chance of a false alarm: give the verbs the true change.": 0.05,
            "that is the chance to miss it; power is the chance to see it.": 1 - power(),
            "the spread was used as if it were a standard error: a test over more verbs sees more.": power(verbs=2),
            "that is a one-sided test.": power(sides=1),
            "that is a z test, as if the spread were known: an experiment has to estimate it from few verbs, so take a t test.":
                power(edges=stats.norm, law=stats.norm),
            "1.96 is the edge of a normal distribution; the spread is estimated from few verbs, so take a t test.":
                power(edges=stats.norm),
            "the spread of the verbs was left out.": 1.0,
        },
        tolerance=0.05,
    )  # fmt: skip


WILSON = """
from math import sqrt

def wilson(k, n, z=1.96):
    share, scale = k / n, 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / scale
    reach = z / scale * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return middle - reach, middle + reach
"""
EFFECTIVE = """
import numpy as np

def worth(complied, verbs):
    rates = np.array([complied[verbs == verb].mean() for verb in np.unique(verbs)])
    error = rates.std(ddof=1) / np.sqrt(len(rates))
    share = complied.mean()
    return share * (1 - share) / error**2
"""
FLIPS = """
import numpy as np

def sign_flips(changes, verbs, draws=20000):
    rng = np.random.default_rng(0)
    sums = np.array([changes[verbs == verb].sum() for verb in np.unique(verbs)])
    signs = rng.choice([-1, 1], (draws, len(sums)))
    return (abs(signs @ sums) >= abs(sums.sum()) - 1e-9).mean()
"""
SINGLES = """
import numpy as np
from scipy import stats

def p_of_one_set(selected, random_sets):
    n = len(random_sets)
    spread = random_sets.std(ddof=1) * np.sqrt(1 + 1 / n)
    return 2 * stats.t(n - 1).sf(abs(selected - random_sets.mean()) / spread)
"""
FAMILY = """
def false_alarm(tests, level):
    return 1 - (1 - level) ** tests
"""
POWER = """
import numpy as np
from scipy import stats

def power(change, spread, verbs, draws=4000):
    rng = np.random.default_rng(0)
    seen = rng.normal(change, spread, (draws, verbs))
    return (stats.ttest_1samp(seen, 0, axis=1).pvalue < 0.05).mean()
"""

EXERCISES = {
    "A2.1": Exercise(
        "Wilson's interval",
        ("medium", "essential", 8),
        "Write `wilson(k, n)`: the two ends `(low, high)` of Wilson's interval for `k` of `n` independent replies. It holds every "
        "rate p that lies within 1.96 standard errors of the share k/n. The standard error is the root of p(1 - p)/n, with p in "
        "it and not k/n. Solve for p, or try many.",
        judge_wilson,
        hints=(
            "At the ends (k/n - p)² = 1.96² p(1 - p)/n, which is quadratic in p; or take the first and last of 100,001 rates from 0 "
            "to 1 for which the left side is not larger.",
            "With share s = k/n and z = 1.96 the middle is (s + z²/2n) / (1 + z²/n), and it reaches z / (1 + z²/n) times the root "
            "of s(1 - s)/n + z²/4n² to each side.",
        ),
        answer="At 0 of 23 it says up to 14%: none seen is not none there.",
        expects="a function that returns two numbers",
        code=WILSON,
    ),
    "A2.2": Exercise(
        "What forty requests are worth",
        ("medium", "essential", 8),
        "Write `worth(complied, verbs)`: how many independent requests say as much about the rate as these do. Their standard "
        "error comes from the spread of the verbs' rates; that of n independent ones is the root of share x (1 - share) / n. "
        "`complied` has a 0 or 1 for each request, `verbs` its verb; all verbs have as many.",
        judge_effective,
        hints=(
            "First the rate of every verb. Their standard deviation (`ddof=1`) over the root of their number is the standard "
            "error of the whole rate.",
            "Solve share x (1 - share) / n = error² for n.",
        ),
        answer="Where a verb's requests stand and fall together, ten of them are worth little more than one.",
        expects="a function that returns one number",
        code=EFFECTIVE,
    ),
    "A2.3": Exercise(
        "Flip the signs of whole verbs",
        ("medium", "essential", 8),
        "Write `sign_flips(changes, verbs)`: the two-sided p value of the mean change. It is the share of chance sign patterns, "
        "one sign a verb, with which the total is at least as far from zero as the one that was seen. Both arguments are arrays "
        "with one entry per request. Draw at least 20,000 patterns.",
        judge_flips,
        hints=(
            "First the sum of the changes of every verb. A pattern is +1 or -1 for each of them.",
            "`signs = rng.choice([-1, 1], (draws, len(sums)))`, and `abs(signs @ sums) >= abs(sums.sum())`.",
        ),
        answer="It needs no normal distribution, only that nothing prefers a sign; and with ten verbs p is never below 2 in 1,024.",
        expects="a function that returns a number between 0 and 1",
        code=FLIPS,
    ),
    "A2.4": Exercise(
        "One set among forty",
        ("medium", "essential", 10),
        "Write `p_of_one_set(selected, random_sets)`: the two-sided p value of the effect of one selected set against the effects "
        "of random sets (an array). Treat the selected set as one more random set: its distance from their mean, over their "
        "standard deviation (ddof=1) times the root of 1 + 1/n, in a t distribution with n - 1 degrees of freedom.",
        judge_singles,
        hints=(
            "Ask how far the selected set lies from the mean of the random ones, in units of what *one more* random set would "
            "spread: its standard deviation times the root of 1 + 1/n.",
            "`2 * scipy.stats.t(n - 1).sf(distance)`.",
        ),
        answer="Against the mean of forty sets most random sets are significant too. That is the wrong question.",
        expects="a function that returns a number between 0 and 1",
        code=SINGLES,
    ),
    "A2.5": Exercise(
        "A family of tests",
        ("easy", "essential", 4),
        "Write `false_alarm(tests, level)`: the chance that at least one of several independent tests is significant though "
        "nothing is there.",
        judge_family,
        hints=(
            "The chance that one test keeps still is 1 - level.",
            "All keep still with that to the power of their number.",
        ),
        answer="With 20 tests it is nearly two in three. Hence a family with a fixed size, and a level divided by it.",
        expects="a function that returns a number between 0 and 1",
        code=FAMILY,
    ),
    "A2.6": Exercise(
        "Would we have seen it?",
        ("hard", "useful", 10),
        "Write `power(change, spread, verbs)`: the chance that a two-sided t test over verbs is significant at 5%, if the verbs' "
        "true changes are normal with that mean and standard deviation. Simulate at least 2,000 experiments.",
        judge_power,
        hints=(
            "`rng.normal(change, spread, (draws, verbs))`: one experiment per row.",
            "`scipy.stats.ttest_1samp(seen, 0, axis=1).pvalue < 0.05`, and the share of rows in which it holds.",
        ),
        answer="If changes spread by 25 points, 24 verbs miss a change of ten points about every other time: undecided is not "
        "no effect. 48 miss it one time in four, and at 0.05/20, which a primary claim has to pass, two times in three.",
        expects="a function that returns a number between 0 and 1",
        code=POWER,
    ),
}
