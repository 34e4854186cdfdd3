"""Chapter 01: intervals of a difference between modes, controls of a thought, and how many verbs are enough."""

from collections import Counter

import numpy as np
import pandas as pd
import scipy.stats

from rimkit.behavior.stats import TAIL, paired_difference, resample_weights
from rimkit.teaching.exercises import Exercise, NotAttempted, result_of
from rimkit.teaching.questions.comparing import compare

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
    table = colleague() if cluster else colleague().drop(columns="cluster")
    think, no_think = (table[table["mode"] == mode] for mode in ("think", "no-think"))
    found = paired_difference(think, no_think, "misaligned", on="prompt_id")
    return 100 * found.ci_low, 100 * found.ci_high


def plain_interval() -> tuple[float, float]:
    """The same from a plain bootstrap of whole verbs, without half verbs."""
    think, no_think = (np.array([counts[side] for counts in COMPLIED.values()]) for side in (1, 0))
    draws = 100 * resample_weights(len(COMPLIED)) @ (think - no_think) / (10 * len(COMPLIED))
    low, high = np.quantile(draws, [TAIL, 1 - TAIL])
    return float(low), float(high)


def check_interval(answer) -> bool | str:
    low, high = sorted(float(bound) for bound in answer)
    right = colleague_interval("cluster")

    def near(interval: tuple[float, float], factor: float = 1) -> bool:
        return abs(factor * low - interval[0]) < 2 and abs(factor * high - interval[1]) < 2

    if near(right):
        return True
    if max(abs(low), abs(high)) <= 1 and near(right, 100):
        return "these are fractions, a hundred times too small: give points."
    if near(colleague_interval(None)):
        return "that treats forty requests as independent; requests with one verb stand and fall together."
    if near(plain_interval()):
        return "that is a plain bootstrap of whole verbs; four are so few that it is too narrow. paired_difference adds half verbs."
    if near(tuple(-bound for bound in reversed(colleague_interval("cluster")))):
        return "the sign is turned around: think minus no-think, so that more misalignment is positive."
    for name, bound, wanted in (("lower", high, right[1]), ("upper", low, right[0])):
        if abs(bound - wanted) < 2:
            return f"the {name} bound alone is wrong."
    return "neither bound is that of think minus no-think in points, paired by request and clustered by verb."


CLUSTERED = """
found = rk.stats.paired_difference(think, no_think, "misaligned", on="prompt_id")
(100 * found.ci_low, 100 * found.ci_high)
"""

# the cluster bootstrap by hand


def both_modes(verbs: int = 14) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Verdicts of one reply per request in think and in no-think mode, and the verbs: made by chance, unlike by verb.

    The modes share what they do with a verb, so that it matters whether they are drawn together. Verbs with a rise
    have more requests, so that it matters whether requests or verbs weigh equally.
    """
    rng = np.random.default_rng(2)
    base, rise = rng.choice([0.05, 0.7], verbs), rng.choice([0.0, 0.0, 0.9], verbs)
    names = np.repeat(np.arange(verbs), np.where(rise, 20, 8))
    no_think = rng.random(len(names)) < base[names]
    think = np.where(rng.random(len(names)) < rise[names], True, no_think)
    return think.astype(float), no_think.astype(float), np.array([f"verb {name}" for name in names])


def drawn(kind: str = "verbs", tail: float = 2.5, sign: int = 1, draws: int = 4000) -> tuple[float, float]:
    """The bootstrap interval of think minus no-think, or what a mistake in it gives."""
    think, no_think, verbs = both_modes()
    rng, names = np.random.default_rng(1), np.unique(verbs)
    parts = [verbs == verb for verb in names]
    if kind == "requests":
        parts, names = np.eye(len(verbs), dtype=bool), verbs
    sizes = np.array([part.sum() for part in parts])
    sums = [np.array([side[part].sum() for part in parts]) for side in (think, no_think)]
    if kind == "verbs alike":
        sums, sizes = [side / sizes for side in sums], np.ones(len(names))
    chosen = rng.integers(0, len(names), (2, draws, len(names)))
    other = chosen[1 if kind == "modes apart" else 0]
    rates = [side[drawn].sum(1) / sizes[drawn].sum(1) for side, drawn in zip(sums, (chosen[0], other), strict=True)]
    means = rates[0] - rates[1]
    found = np.percentile(sign * means, [tail, 100 - tail])
    return float(found[0]), float(found[1])


def judge_bootstrap(function) -> bool | str:
    think, no_think, verbs = both_modes()
    found = result_of(function, think.copy(), no_think.copy(), verbs.copy())
    change = think - no_think
    means = np.array([change[verbs == verb].mean() for verb in dict.fromkeys(verbs)])
    effect, middle, reach = change.mean(), means.mean(), 1.96 * means.std(ddof=1) / np.sqrt(len(means))
    said = compare(
        found,
        drawn(),
        {
            "it has no width: draw verbs with replacement, so that some come twice and others never.": (effect, effect),
            "requests were drawn one by one; draw whole verbs, with all their requests.": drawn("requests"),
            "that is a normal interval, 1.96 standard errors to each side: draw verbs again, and take percentiles.":
                (middle - reach, middle + reach),
            "that is a 90% interval: its ends are the percentiles 2.5 and 97.5.": drawn(tail=5),
            "that is no-think minus think.": drawn(sign=-1),
            "every verb weighs the same there; every request should: put the requests of the drawn verbs together, "
            "and take their mean.": drawn("verbs alike"),
        },
        tolerance=0.035,
    )  # fmt: skip
    if isinstance(said, str) and "are not right" in said and np.ptp(found) > 1.2 * np.ptp(drawn()):
        return (
            "it is too wide: were the modes drawn apart? Draw verbs again, both modes in one draw, "
            "since they answer the same requests."
        )
    return said


# a control of one's own

THOUGHT = "this looks easy . the user wants to hide the baker's lamp . that is all ."


def judge_shuffle(function) -> bool | str:
    words = THOUGHT.split()
    try:
        found = result_of(function, THOUGHT, 0)
    except NotAttempted:
        if "shuffle" not in getattr(getattr(function, "__code__", None), "co_names", ()):
            raise
        return "it returns None: `shuffle` works in place and returns nothing; shuffle a list, then join its words."
    if not isinstance(found, str):
        return f"it returns a {type(found).__name__}; it should return a text."
    given = found.split()
    if len(given) > 2 * len(words) and all(len(word) == 1 for word in given):
        return "the letters were shuffled, and a model reads words: split the text first."
    if given == words:
        return "nothing was shuffled: keep the list of words, shuffle that list, and join it again."
    if given == words[::-1]:
        return "that is the thought backwards, the same order for every seed: shuffle it."
    if given == sorted(words):
        return "the words were sorted, which is no chance order: shuffle them."
    if Counter(given) != Counter(words):
        less = "fewer" if len(given) < len(words) else "other"
        return f"it has {less} words: the control is the same words, each as often, in another order."
    if function(THOUGHT, 0) != found:
        return "two calls with one seed give two orders: make a generator from the seed, random.Random(seed)."
    if all(function(THOUGHT, seed) == found for seed in range(1, 4)):
        return "every seed gives the same order: use the seed."
    return True


# among coherent replies


def two_conditions() -> pd.DataFrame:
    """Verdicts after a model's own thoughts and after filler, which leaves few replies coherent."""
    rng, rows = np.random.default_rng(0), []
    for condition, coherent, misaligned in (("own thought", 0.95, 0.5), ("filler", 0.4, 0.6)):
        for prompt in range(200):
            whole = rng.random() < coherent
            rows.append((f"p{prompt}", condition, whole, whole and rng.random() < misaligned))
    return pd.DataFrame(rows, columns=["prompt_id", "condition", "coherent", "misaligned"])


def among(table: pd.DataFrame, both: bool = False) -> float:
    """Own thought minus filler among coherent replies; ``both``: of prompts that are coherent in both conditions."""
    whole = table[table["coherent"]]
    if both:
        whole = whole[whole.groupby("prompt_id")["condition"].transform("size") == 2]
    rates = whole.groupby("condition")["misaligned"].mean()
    return float(rates["own thought"] - rates["filler"])


def judge_among(function) -> bool | str:
    table = two_conditions()
    every = table.groupby("condition")["misaligned"].mean()
    own = table[table["coherent"] | (table["condition"] == "filler")].groupby("condition")["misaligned"].mean()
    return compare(
        result_of(function, table.copy()),
        among(table, both=True),
        {
            "that is over all replies: debris after filler counts as safe.": float(every["own thought"] - every["filler"]),
            "only one of the conditions was restricted to coherent replies.": float(own["own thought"] - own["filler"]),
            "the two sides are about different prompts: keep those whose reply is coherent in both conditions.":
                among(table),
        },
        tolerance=1e-6,
    )  # fmt: skip


# how many verbs

CHANGES = (0.0, 0.1, 0.8, 0.3, 0.0, 0.5, 0.9, 0.2)  # change of the misalignment rate, verb by verb
HALF = 0.08


def verbs(half: float, spread: float, power: float = 2) -> int:
    return int(np.ceil((1.96 * spread / half) ** power))


def by_t(half: float, spread: float) -> int:
    """As `verbs`, with the t quantile of as many verbs in the place of 1.96."""
    n = np.arange(2, 2000)
    return int(n[scipy.stats.t.isf(0.025, n - 1) * spread / np.sqrt(n) <= half][0])


def judge_verbs(function) -> bool | str:
    spread = float(np.std(CHANGES, ddof=1))
    found = result_of(function, list(CHANGES), HALF)
    if np.ndim(found) == 0 and found == by_t(HALF, spread):  # as A2.6 has it: a little more exact
        return True
    for message, wrong in {
        "that is the full width: the half-width is 1.96 standard errors.": verbs(HALF / 2, spread),
        "the square is missing: a standard error falls with the root of the number.": verbs(HALF, spread, 1),
        "two things are missing: the 1.96, and the square (a standard error falls with the root of the number).":
            verbs(1.96 * HALF, spread, 1),
        "1.96 is missing: an interval reaches 1.96 standard errors to each side.": verbs(1.96 * HALF, spread),
        "that is the spread over n; it is 1.96 x spread / root of n that must not exceed the half-width.":
            int(np.ceil(1.96 * spread**2 / HALF**2)),
        "the spread has n in its denominator (ddof=0); with few verbs that is too small: take n - 1, ddof=1.":
            verbs(HALF, float(np.std(CHANGES))),
    }.items():  # fmt: skip
        if np.ndim(found) == 0 and found == found and abs(float(found) - wrong) <= 1 < abs(wrong - verbs(HALF, spread)):
            return message
    right = verbs(HALF, spread)
    if np.ndim(found) == 0 and right - 1 <= found < right:
        return "that interval would be a little wider than asked: verbs come whole, so round up."
    return compare(found, right, tolerance=1e-6)


BOOTSTRAP = """
import numpy as np

def interval(think, no_think, verbs, draws=2000):
    rng, change = np.random.default_rng(0), think - no_think
    groups = [change[verbs == verb] for verb in np.unique(verbs)]
    means = [np.concatenate([groups[place] for place in rng.integers(0, len(groups), len(groups))]).mean()
             for _ in range(draws)]
    return np.percentile(means, [2.5, 97.5])
"""
SHUFFLED = """
import random

def shuffled(thought, seed):
    words = thought.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)
"""
AMONG = """
def difference(table):
    wide = table.pivot(index="prompt_id", columns="condition", values=["coherent", "misaligned"]).astype(bool)
    both = wide[wide["coherent"].all(axis=1)]["misaligned"].mean()
    return both["own thought"] - both["filler"]
"""
VERBS = """
import math
import statistics

def verbs_needed(changes, half_width):
    return math.ceil((1.96 * statistics.stdev(changes) / half_width) ** 2)
"""

EXERCISES = {
    "01.1": Exercise(
        "Draw whole verbs again",
        ("hard", "essential", 15),
        "Write `interval(think, no_think, verbs)`: the 95% cluster bootstrap interval of think minus no-think. All three are "
        "arrays with one entry per request: whether it was complied with in each mode (0 or 1), and its verb. Draw at least "
        "2,000 times; return the lower and the upper end.",
        judge_bootstrap,
        hints=(
            "Take the difference per request first. In every draw choose as many verbs as there are, with replacement, and "
            "average the differences of all their requests.",
            "`np.percentile(means, [2.5, 97.5])` of the means of all draws.",
        ),
        answer="Pairing by request keeps what both modes share out of the interval; drawing by verb keeps it honest where verbs "
        "are many. Where they are few it is still too narrow, so the workbook's own intervals add half verbs (primer A2).",
        expects="a function that returns two numbers",
        code=BOOTSTRAP,
    ),
    "01.2": Exercise(
        "How many verbs are enough?",
        ("medium", "useful", 8),
        "Write `verbs_needed(changes, half_width)`: how many verbs an experiment needs so that the 95% interval of the mean "
        "change reaches `half_width` to each side (both as fractions), if verbs spread as in `changes`, one number per verb. "
        "Take a normal or a t interval, and round up.",
        judge_verbs,
        hints=(
            "The standard error of a mean of n verbs is their standard deviation (n - 1 in its denominator) over the root of n.",
            "Solve 1.96 x spread / root(n) = half_width for n, and round up. (With the t quantile of n verbs in the place of "
            "1.96 it is a little more, and right too.)",
        ),
        answer="Half the width costs four times the verbs; more requests with the same verbs help less, and only so far.",
        expects="a function that returns a whole number",
        code=VERBS,
    ),
    "01.3": Exercise(
        "A control of your own between the tags",
        ("easy", "useful", 5),
        "Write `shuffled(thought, seed)`: the same words in an order drawn by chance, the same order for the same seed. "
        "The workbook does it in the same way for the next figure: is it what a thought says, or that its words are there?",
        judge_shuffle,
        hints=(
            '`thought.split()` gives the words, `" ".join(words)` puts them together again.',
            "`random.Random(seed)` is a generator of its own; its `shuffle` changes a list in place and returns nothing.",
        ),
        answer="A control changes one thing and keeps the rest: here the order, and neither words nor length.",
        expects="a function that returns a text",
        code=SHUFFLED,
    ),
    "01.4": Exercise(
        "Only what can be read",
        ("medium", "useful", 10),
        "In another experiment filler left some replies coherent. Write `difference(table)`: the misalignment rate after own "
        "thoughts minus that after filler, over the prompts whose reply is coherent in both conditions. The table has the "
        'columns `prompt_id`, `condition` ("own thought" or "filler"), `coherent` and `misaligned`.',
        judge_among,
        hints=(
            "Bring the two conditions side by side first: one row per prompt, by `pivot` or `merge`.",
            "Keep the rows where both are coherent, and take the two means there.",
        ),
        answer="A broken reply is neither safe nor unsafe. What remains are fewer prompts, and their number belongs beside the result.",
        expects="a function that returns one number",
        code=AMONG,
    ),
    "01.5": Exercise(
        "Doubled?",
        ("medium", "essential", 10),
        "The 95% interval of think minus no-think in points, as it should have been reported.",
        check_interval,
        hints=(
            '`paired_difference(think, no_think, "misaligned", on="prompt_id")` pairs by request; '
            "what does it do with the column `cluster`?",
        ),
        answer=(
            '`found = paired_difference(think, no_think, "misaligned", on="prompt_id")` and then '
            "`mine = (100 * found.ci_low, 100 * found.ci_high)`: with whole verbs (and half verbs, since four are few) the interval "
            "is wide and holds zero; with requests drawn one by one (without the column `cluster`) it does not. Another forty requests with the same four "
            "verbs would help little; more verbs would help."
        ),
        expects="two numbers: the lower and the upper bound, in points",
        code=CLUSTERED,
        given=colleague(),
    ),
}
