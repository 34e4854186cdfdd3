"""Chapter 08: digits, counts, averages, pairs, one probe, power and a permutation, from the published numbers."""

from functools import cache
from itertools import permutations, product

import numpy as np

from rimkit.ledger import claims
from rimkit.paper.findings import NOTHING, finding
from rimkit.paper.reanalysis import GROUPS, reanalysis, recomputed
from rimkit.paper.statistics import denominators, exact_power, permutation_p, power
from rimkit.paper.tables import changes, literal_changes, published
from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.comparing import compare

# a misprint


def exchanged_digits(printed: float, right: float) -> bool:
    """Whether two digits exchanged turn one number, with two decimals, into the other."""
    one, two = f"{printed:.2f}", f"{right:.2f}"
    if len(one) != len(two):
        return False
    differ = [place for place, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    return len(differ) == 2 and one[differ[0]] == two[differ[1]] and one[differ[1]] == two[differ[0]]


def misprint() -> tuple[float, float]:
    """The printed average that is right but for two exchanged digits: printed, and as it should be."""
    wrong = recomputed().query("not follows")
    (found,) = [
        (item.printed, right)
        for item in wrong.itertuples()
        for right in (round(item.recomputed + 1e-9, 2), round(item.recomputed - 1e-9, 2))
        if exchanged_digits(item.printed, right)
    ]
    return found


SLIPS = ((33.14, 33.41), (4.96, 5.05), (-2.94, -2.79), (12.05, 21.05), (1.5, 10.5), (12.34, 23.14), (7.27, 7.72))


def judge_exchanged(function) -> bool | str:
    def same_digits(printed: float, right: float) -> bool:
        return printed != right and sorted(f"{printed:.2f}") == sorted(f"{right:.2f}")

    def close(printed: float, right: float) -> bool:
        return abs(printed - right) < 0.5

    def two_differ(printed: float, right: float) -> bool:
        return sum(a != b for a, b in zip(f"{printed:.2f}", f"{right:.2f}", strict=False)) == 2

    found = [bool(result_of(function, *pair)) for pair in SLIPS]
    if found == [exchanged_digits(*pair) for pair in SLIPS]:
        return True
    known = {
        "it always gives the same answer.": None,
        "two numbers with the same digits need not be one exchange apart: 1234 and 2314. Which digits, and where?": same_digits,
        "that two digits differ is not enough: each has to stand where the other one stood.": two_differ,
        "how far the numbers lie apart does not matter; look at their digits.": close,
        "these are the pairs that no exchange explains: turn it around.": lambda *pair: not exchanged_digits(*pair),
    }
    for message, wrong in known.items():
        if (len(set(found)) == 1) if wrong is None else found == [wrong(*pair) for pair in SLIPS]:
            return message
    place = [one == exchanged_digits(*pair) for one, pair in zip(found, SLIPS, strict=True)].index(False)
    printed, right = SLIPS[place]
    return f"for {printed:.2f} and {right:.2f} it should be {exchanged_digits(printed, right)}."


# denominators

PRINTED = ((35.09, 60), (8.33, 60), (15.39, 300), (22.94, 300), (100.0, 6))  # percent, and the largest denominator


def judge_fits(function) -> bool | str:
    def exact(percent: float, largest: int) -> list[int]:
        return [n for n in range(1, largest + 1) if abs(percent * n / 100 - round(percent * n / 100)) < 1e-9]

    def loose(percent: float, largest: int) -> list[int]:
        return [n for n in range(1, largest + 1) if abs(100 * round(percent * n / 100) / n - percent) <= 0.05]

    known = {
        "a printed rate is rounded: ask whether k of n, written with two decimals, is what is printed.": exact,
        "that is the largest n alone; all that fit were asked for.": lambda *given: denominators(*given)[:1],
        "these are the counts k; the denominators n were asked for.":
            lambda percent, largest: [round(percent * n / 100) for n in denominators(percent, largest)],
        "it looks at denominators of up to the largest, but not at the largest itself.":
            lambda percent, largest: [n for n in denominators(percent, largest) if n < largest],
    }  # fmt: skip
    found = []
    for printed in PRINTED:
        numbers = np.ravel(result_of(function, *printed))
        if numbers.size > 600:
            return f"it is {numbers.size} numbers where at most {printed[1]} can be."
        found.append(sorted(set(numbers.astype(float).tolist())))
    if found == [sorted(denominators(*one)) for one in PRINTED]:
        return True
    for message, wrong in known.items():
        if found == [sorted(set(wrong(*one))) for one in PRINTED]:
            return message
    if all({*denominators(*one)} <= {*mine} <= {*loose(*one)} for one, mine in zip(PRINTED, found, strict=True)):
        return (
            "your tolerance is wider than rounding: a number with two decimals is at most 0.005 from what was rounded."
        )
    place = [one == sorted(denominators(*printed)) for one, printed in zip(found, PRINTED, strict=True)].index(False)
    (percent, largest), fit = PRINTED[place], denominators(*PRINTED[place])
    right = f"{len(fit)} fit" if fit else "none fits"
    return f"for {percent:.2f} percent and up to {largest} its list has the length {len(found[place])}, and {right}."


# leave one out


def without_each(values: np.ndarray) -> np.ndarray:
    return np.array([np.delete(values, place).mean() for place in range(len(values))])


def judge_without(function) -> bool | str:
    table, column = published("table2_finetuning_delta"), "GSM8K(L)-target"
    values, every = changes()[column].to_numpy(), table["delta_misalignment_points"].to_numpy()
    return compare(
        result_of(function, table.copy(), column),
        without_each(values),
        {
            "these are the changes themselves: one mean for each model that is left out.": values,
            "that is the mean of all; leave one model out each time.": np.full(8, values.mean()),
            "seven models are left: divide by seven, not by eight.": without_each(values) * 7 / 8,
            "these are sums; take means.": without_each(values) * 7,
            "these are medians; take means.": np.array([np.median(np.delete(values, place)) for place in range(8)]),
            "that is how far each mean lies from the mean of all; the means were asked for.":
                without_each(values) - values.mean(),
            "all training sets were averaged: take the rows of the one that is asked for.":
                lambda: np.array([every[(table["model"] != name).to_numpy()].mean() for name in changes().index]),
        },
    )  # fmt: skip


# pairs


def flips(first: np.ndarray, second: np.ndarray, sided: int = 2) -> float:
    """The share of all ways of turning the signs of the differences that give as large a mean."""
    change = first - second
    means = np.array([(change * signs).mean() for signs in product((1, -1), repeat=len(change))])
    return float(
        (np.abs(means) >= abs(change.mean()) - 1e-12).mean() if sided == 2 else (means >= change.mean()).mean()
    )


def two_columns() -> list[tuple[np.ndarray, np.ndarray]]:
    """Table A7, and GSM8K against MATH401 in Table 2: pairs of which not all have one sign."""
    other = changes()
    return [tuple(literal_changes().to_numpy().T), (other["GSM8K"].to_numpy(), other["MATH401"].to_numpy())]


def judge_pairs(function) -> bool | str:
    from scipy.stats import ttest_ind, ttest_rel, wilcoxon

    pairs = two_columns()

    def each(measure) -> np.ndarray:
        return np.array([measure(*pair) for pair in pairs])

    return compare(
        np.array([float(result_of(function, *(side.copy() for side in pair))) for pair in pairs]),
        each(flips),
        {
            "that is one-sided: a mean as far below zero counts as well.": each(lambda *pair: flips(*pair, sided=1)),
            "the two columns were compared as if other models stood in each: pair them.":
                each(lambda *pair: ttest_ind(*pair).pvalue),
            "that is a t test of the pairs, which leans on a normal distribution; turn the signs instead.":
                each(lambda *pair: ttest_rel(*pair).pvalue),
            "that is Wilcoxon's test, of the ranks of the differences; turn the signs of the differences themselves.":
                each(lambda *pair: wilcoxon(*pair).pvalue),
            "the observed signs are one of the ways, too: count ways with a mean at least as large, not larger.":
                each(lambda *pair: flips(*pair) - 2 / 256),
            "that is the share of models in which the first column is larger.": each(lambda a, b: (a > b).mean()),
        },
        tolerance=0.02,
    )  # fmt: skip


# one probe or two


def drawn(position: str) -> list[np.ndarray]:
    """Shares above the threshold without thinking at one place of Fig. 3, by layer: refused, fulfilled, harmful."""
    table = published("fig3_probe_scores").query("mode == 'no-think' and position == @position")
    wide = table.pivot_table(index="layer", columns="group", values="share_above_threshold")
    return [wide[group].to_numpy() for group in ("refused", "fulfilled", "harmful")]


def left_over(shares, sizes=GROUPS["no-think"]) -> np.ndarray:
    refused, fulfilled, harmful = (np.round(part * n) for part, n in zip(shares, sizes, strict=True))
    return refused + fulfilled - harmful


def judge_probe(function) -> bool | str:
    figure = drawn("between think tags")
    second = [figure[0][::-1], figure[1] ** 2, figure[2]]  # what two probes could have drawn
    both, sizes = (figure, second), GROUPS["no-think"]

    def each(measure) -> np.ndarray:
        return np.concatenate([measure(shares) for shares in both])

    given = [result_of(function, *(part.copy() for part in shares), *sizes) for shares in both]
    return compare(
        np.concatenate([np.asarray(part, dtype=float) for part in given]),
        each(left_over),
        {
            "shares were added as they are: turn each into a count with the size of its group.":
                each(lambda shares: shares[0] + shares[1] - shares[2]),
            "counts are whole numbers: round each of them.":
                each(lambda shares: sum(part * n for part, n in zip(shares, (*sizes[:2], -sizes[2]), strict=True))),
            "that is the number of harmful requests above the threshold without those refused: take the fulfilled as well.":
                each(lambda shares: np.round(shares[0] * sizes[0]) - np.round(shares[2] * sizes[2])),
            "that is refused plus fulfilled; the harmful ones are to be taken away.":
                each(lambda shares: np.round(shares[0] * sizes[0]) + np.round(shares[1] * sizes[1])),
            "counts were cut off, not rounded: int() makes 2 of 2.9999.":
                each(lambda shares: sum(sign * np.floor(part * n) for part, n, sign in zip(shares, sizes, (1, 1, -1), strict=True))),
            "fulfilled and refused are taken with each other's size.":
                each(lambda shares: left_over(shares, (sizes[1], sizes[0], sizes[2]))),
        },
        tolerance=1e-6,
    )  # fmt: skip


# power of twenty-one prompts

DESIGNS = ((12 / 21, 15 / 21, 21), (0.4, 0.8, 21))  # two rates, and prompts in each condition


exactly = cache(exact_power)


def judge_power(function) -> bool | str:
    def each(measure) -> np.ndarray:
        return np.array([measure(*design) for design in DESIGNS])

    found, again = (each(lambda *design: float(result_of(function, *design))) for _ in range(2))
    if np.abs(found - again).max() > 0.15:
        return "two calls differ too much: draw counts many times, and take the share of draws with p below 0.05."
    return compare(
        found,
        each(exactly),
        {
            "that is the chance to miss it; power is the chance to find it.": 1 - each(exactly),
            "both conditions were drawn with the same rate: that is how often nothing is found to be something.":
                lambda: each(lambda rate, other, n: exactly(rate, rate, n)),
            "that is the power of a normal test, which flatters so few prompts: draw counts and use Fisher's.": each(power),
            "each draw gives one p value; the share of draws with p below 0.05 was asked for.":
                lambda: np.array([0.52, 0.01]),
        },
        tolerance=0.05,
    )  # fmt: skip


# a permutation


def panels() -> list[tuple[np.ndarray, np.ndarray]]:
    """Two panels of Fig. 8: RAS of safety-critical neurons, and rates."""
    table = published("fig8_ras_vs_misalignment").query("predictor == 'RAS (safety neurons)'")
    parts = [table[table["model"] == model] for model in ("OLMo2-1B", "Phi3.5-Tiny")]
    return [(part["value"].to_numpy(), part["misalignment_rate_pct"].to_numpy()) for part in parts]


def one_sided(values: np.ndarray, rates: np.ndarray) -> float:
    x, y = values - values.mean(), rates - rates.mean()
    orders = np.array(list(permutations(y)))
    return float((orders @ x >= x @ y - 1e-12).mean())


def judge_permutation(function) -> bool | str:
    from scipy.stats import pearsonr

    def each(measure) -> np.ndarray:
        return np.array([measure(*pair) for pair in panels()])

    found = [float(result_of(function, *(side.copy() for side in pair))) for pair in panels()]
    return compare(
        np.array(found),
        each(permutation_p),
        {
            "that is one-sided: a correlation as strong in the other direction counts as well.": lambda: each(one_sided),
            "that is the p value of a t test, which takes rates as normal; hand the rates to the checkpoints at random.":
                lambda: each(lambda x, y: pearsonr(x, y).pvalue),
            "that is the correlation; how often would chance give one as strong?": lambda: each(lambda x, y: pearsonr(x, y)[0]),
            "that is the share of orders with a weaker correlation.": lambda: 1 - each(permutation_p),
        },
        tolerance=0.025,
    )  # fmt: skip


# a bet


def safest() -> list[str]:
    """The primary claims that the published numbers support by the workbook's rule."""
    known, table = claims().set_index("id"), reanalysis().set_index("claim")
    return table.index[known["primary"] & (table["verdict"] == "supported")].tolist()


def check_bet(answer) -> bool | str:
    answer = str(answer).strip().capitalize()  # "c7a" as well
    table = reanalysis().set_index("claim")
    if answer in safest():
        return True
    if answer not in table.index:
        return f"'{answer}' is not the id of a claim, such as {claims()['id'][0]}."
    row = table.loc[answer]
    if not isinstance(row["verdict"], str):
        return f"the published numbers do not judge it. {finding(answer).removeprefix(NOTHING)}".strip()
    if row["ci_low"] <= 0 <= row["ci_high"]:
        return f"its interval over models holds zero. {finding(answer)}"
    return f"its interval excludes zero, but not by enough for one of many tests. {finding(answer)}"


EXCHANGED = """
def exchanged(printed, right):
    one, two = f"{printed:.2f}", f"{right:.2f}"
    differ = [(a, b) for a, b in zip(one, two) if a != b]
    return len(one) == len(two) and len(differ) == 2 and differ[0] == differ[1][::-1]
"""
FITS = """
def fits(percent, largest):
    return [
        n
        for n in range(1, largest + 1)
        if any(f"{100 * k / n:.2f}" == f"{percent:.2f}" for k in range(n + 1))
    ]
"""
WITHOUT = """
def without_each(table, training_set):
    change = table[table["training_set"] == training_set].set_index("model")
    change = change["delta_misalignment_points"]
    return [change.drop(model).mean() for model in change.index]
"""
PAIRS = """
from itertools import product

import numpy as np

def paired_p(first, second):
    change = first - second
    means = [(change * signs).mean() for signs in product((1, -1), repeat=len(change))]
    return (np.abs(means) >= abs(change.mean()) - 1e-9).mean()
"""
PROBE = """
def left_over(refused, fulfilled, harmful, n_refused, n_fulfilled, n_harmful):
    above = (refused * n_refused).round() + (fulfilled * n_fulfilled).round()
    return above - (harmful * n_harmful).round()
"""
POWER = """
import numpy as np
from scipy.stats import fisher_exact

def power(rate, other, n):
    rng = np.random.default_rng(0)
    draws = rng.binomial(n, (rate, other), (1500, 2))
    kinds, how_often = np.unique(draws, axis=0, return_counts=True)
    p = np.array([fisher_exact([[a, n - a], [b, n - b]]).pvalue for a, b in kinds])
    return how_often[p < 0.05].sum() / len(draws)
"""
PERMUTED = """
import numpy as np

def permutation_p(values, rates):
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(rates, (20_000, 1)), axis=1)
    x = values - values.mean()  # r of every order is its product with x, but for one factor
    return (abs(orders @ x) >= abs(rates @ x) - 1e-9).mean()
"""

EXERCISES = {
    "08.1": Exercise(
        "Find the misprint",
        ("easy", "useful", 5),
        "Write `exchanged(printed, right)`: whether the number that is printed becomes the right one if two of its digits "
        "change places. Both are numbers with two decimals. One of the averages that do not follow is such a slip.",
        judge_exchanged,
        hints=(
            'Compare texts: `f"{printed:.2f}"` and `f"{right:.2f}"`, digit by digit. Where do they differ?',
            "There are just two such places, and each holds what the other one held. Texts of different length never do.",
        ),
        answer=(
            "It finds one: Fig. 2, effort-minimising instruction deviation. The other three differ by "
            "0.09 to 0.15 points, which rounding of the rows does not explain; perhaps a row was measured again. None changes a conclusion."
        ),
        expects="a function that returns True or False",
        code=EXCHANGED,
    ),
    "08.2": Exercise(
        "Of how many?",
        ("easy", "essential", 8),
        "Write `fits(percent, largest)`: all whole numbers *n* up to `largest` for which some *k* of *n* is the printed "
        "`percent`, rounded to two decimals.",
        judge_fits,
        hints=(
            "For each n, which k comes closest? Is 100 k / n, rounded to two decimals, the printed number?",
            'Compare what is printed: `f"{100 * k / n:.2f}"`.',
        ),
        answer="35.09 of at most 60 can only be 20 of 57. Up to 300 nearly any rate fits.",
        expects="a function that returns a list of whole numbers",
        code=FITS,
    ),
    "08.3": Exercise(
        "Leave one out",
        ("easy", "essential", 5),
        "Write `without_each(table, training_set)`: the mean change with each of the eight models left out in turn, in the order of "
        "the table. `table` is `table2_finetuning_delta.csv`: columns `model, training_set, delta_misalignment_points`.",
        judge_without,
        hints=(
            "Keep the rows of the training set first. Then, for every model, the mean of the others.",
            "`change.drop(model).mean()` on a Series that is indexed by model.",
        ),
        answer="If one of the eight means lies apart, that model carries the mean.",
        expects="a function that returns eight numbers",
        code=WITHOUT,
    ),
    "08.4": Exercise(
        "Which claim would you bet on?",
        ("medium", "essential", 5),
        "By the rule of this workbook, over models and corrected for twenty claims, one primary claim is supported by the published "
        "numbers. Which? Give its id from the table above, before you go on.",
        check_bet,
        hints=("Which comparison is paired, and has the same sign and about the same size in every model?",),
        answer=(
            "`'C7a'`: fine-tuning on GSM8K against the same contexts without reasoning. The paper reads its two rows one by one and "
            "calls one of them negligible; taken in pairs, all eight models say the same. A good design can be stronger than its own summary."
        ),
        expects="the id of a claim, such as 'C1a'",
        code="'C7a'",
    ),
    "08.5": Exercise(
        "Turn the signs",
        ("medium", "essential", 8),
        "Write `paired_p(first, second)`: if it did not matter which column is which, every model's difference could as well have the "
        "other sign. Of all ways of turning signs, which share gives a mean at least as far from zero as the observed one?",
        judge_pairs,
        hints=(
            "Eight differences have 2⁸ = 256 ways: `itertools.product((1, -1), repeat=8)`.",
            "Compare absolute values, and count the observed way as well.",
        ),
        answer="With one sign in all eight models only the observed way and its mirror count: 2 of 256, whatever the sizes.",
        expects="a function that returns a p value",
        code=PAIRS,
    ),
    "08.6": Exercise(
        "Could one probe have drawn this?",
        ("medium", "essential", 8),
        "Write `left_over(refused, fulfilled, harmful, n_refused, n_fulfilled, n_harmful)`: three curves of shares above the "
        "threshold, by layer, and the sizes of the groups. Turn shares into counts, and return refused plus fulfilled minus "
        "harmful for every layer.",
        judge_probe,
        hints=(
            "A share times the size of its group, rounded, is a count.",
            "`(refused * n_refused).round()`: the curves are arrays.",
        ),
        answer="It is tried on Fig. 3 and on made-up curves of two probes. One probe leaves 0, or -1 where a request has no label.",
        expects="a function that returns a number for each layer",
        code=PROBE,
    ),
    "08.7": Exercise(
        "What could 21 prompts have shown?",
        ("medium", "essential", 10),
        "Write `power(rate, other, n)`: draw two counts of `n` prompts with these true rates many times, test each pair with Fisher's exact "
        "test (`scipy.stats.fisher_exact`), and return the share with p below 0.05. A thousand draws are enough, and "
        "quick if each kind of pair is tested once (`np.unique`).",
        judge_power,
        hints=(
            "`rng.binomial(n, rate)` draws a count; the table is `[[a, n - a], [b, n - b]]`.",
            "Many draws are alike: `np.unique(draws, axis=0, return_counts=True)` tests each kind once.",
        ),
        answer="Fig. 5 would have shown a true difference of its own size in about one of eleven tries.",
        expects="a function that returns a share",
        code=POWER,
        seconds=60,
    ),
    "08.8": Exercise(
        "Hand out the rates again",
        ("medium", "essential", 8),
        "Write `permutation_p(values, rates)`: hand the rates to the checkpoints in random order many times (some 10,000). Which share of "
        "orders gives a correlation at least as strong, in either direction?",
        judge_permutation,
        hints=(
            "`np.corrcoef(values, rng.permutation(rates))[0, 1]`, its absolute value against that of the data.",
            "Count orders that are as strong as the observed one, too.",
        ),
        answer="The p value holds if checkpoints are exchangeable. Those of one run are not: each starts where the last one stopped.",
        expects="a function that returns a p value",
        code=PERMUTED,
        seconds=60,
    ),
}  # fmt: skip
