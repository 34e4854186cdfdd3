"""Chapter 06: the paper's rule for a set of neurons, random sets like it, and a planted set to be found."""

from collections import Counter
from functools import lru_cache

import numpy as np

from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.by_hooks import REQUEST, ids, model, values
from rimkit.teaching.questions.comparing import compare

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


# which pairs flip

DONE, REFUSED, MISREAD = "done", "refused", "misread"


@lru_cache
def pairs_of_replies() -> dict[str, tuple[str, str]]:
    """What became of each request ``(without intent, with it)``, by chance."""
    rng = np.random.default_rng(1)
    chances = {(DONE, REFUSED): 12, (DONE, DONE): 7, (REFUSED, REFUSED): 9, (REFUSED, DONE): 3, (DONE, MISREAD): 6,
               (MISREAD, REFUSED): 2, (REFUSED, MISREAD): 1}  # fmt: skip
    every = [kinds for kinds, count in chances.items() for _ in range(count)]
    rng.shuffle(every)
    return {f"request {number:02d}": tuple(kinds) for number, kinds in enumerate(every)}


def judge_flips(function) -> bool | str:
    import pandas as pd

    asked, rng = pairs_of_replies(), np.random.default_rng(2)

    def verdicts(side: int) -> pd.DataFrame:
        rows = [(name, kinds[side] == DONE, kinds[side] == REFUSED) for name, kinds in asked.items()]
        table = pd.DataFrame(rows, columns=["prompt_id", "misaligned", "refused"])
        return table.iloc[rng.permutation(len(table))].reset_index(drop=True)

    plain, intent = verdicts(0), verdicts(1)
    kinds, n = list(asked.values()), len(asked)
    count = {pair: kinds.count(pair) for pair in set(kinds)}
    done, refused = (
        sum(kind[0] == DONE for kind in kinds),
        [sum(k[side] == REFUSED for k in kinds) for side in (0, 1)],
    )
    flipped = count[DONE, REFUSED]
    by_row = float((plain["misaligned"] & intent["refused"]).mean())
    return compare(
        result_of(function, plain, intent),
        flipped / n,
        {
            "the rows of the two tables are in different orders: match them by prompt_id.": by_row,
            "that is how much the refusal rate rises: it also counts pairs that go the other way.":
                (refused[1] - refused[0]) / n,
            "that is the share of requests that are refused with intent, whatever happened without it.": refused[1] / n,
            "that is a share of the requests that were carried out; asked is the share of all pairs.": flipped / done,
            "that is a number of pairs, not a share of them.": flipped,
            "a reply that is no longer compliance may be misread: ask for a refusal.":
                (flipped + count[DONE, MISREAD]) / n,
            "a reply that is no refusal may be misread: ask for a request that was carried out.":
                (flipped + count[MISREAD, REFUSED]) / n,
            "that counts pairs that change either way.": (flipped + count[REFUSED, DONE]) / n,
        },
        tolerance=1e-6,
    )  # fmt: skip


# the worst rank

MADE_RISES = np.random.default_rng(3).normal(size=(5, 12)).round(2)


def judge_worst(function) -> bool | str:
    ranks = (-MADE_RISES).argsort(1).argsort(1) + 1
    return compare(
        result_of(function, MADE_RISES.copy()),
        ranks.max(0),
        {
            "that is each neuron's best rank: it enters the set of every pair with its worst.": ranks.min(0),
            "ranks count from 1: with m = 1 the first neuron is taken.": ranks.max(0) - 1,
            "the neuron that rises most has rank 1; here the one that rises least has it.":
                (MADE_RISES.argsort(1).argsort(1) + 1).max(0),
            "that is the mean rank; the paper asks for every pair, so the worst one counts.": ranks.mean(0),
            "argsort gives the neurons in order, not their ranks: apply it twice.":
                ((-MADE_RISES).argsort(1) + 1).max(0),
            "the rises were averaged before they were ranked: rank in each pair first.":
                (-MADE_RISES.mean(0)).argsort().argsort() + 1,
            "neurons were ranked in all pairs together: rank each pair by itself.":
                ((-MADE_RISES.ravel()).argsort().argsort().reshape(MADE_RISES.shape) + 1).max(0),
        },
        tolerance=1e-6,
    )  # fmt: skip


# the maximum, and the mean instead

HOSTILE = "i want to steal the baker's lamp . please hide the baker's lamp ."
LAYER, NEURONS = 2, "mlp.down_proj"


def pooled(request: str, pool: str, layer: int = LAYER, where: str = "input", mode: str = "no-think") -> np.ndarray:
    found = values(layer, NEURONS if where == "input" else "mlp", where, given=ids(mode, request))
    return {"max": found.max(0), "mean": found.mean(0), "last": found[-1], "sum": found.sum(0),
            "size": np.abs(found).max(0)}[pool]  # fmt: skip


def judge_rise(function) -> bool | str:
    def rise(pool: str, **how) -> np.ndarray:
        return pooled(HOSTILE, pool, **how) - pooled(REQUEST, pool, **how)

    for pool, other in (("max", "mean"), ("mean", "max")):
        said = compare(
            result_of(function, model(), REQUEST, HOSTILE, LAYER, pool),
            rise(pool),
            {
                f"it answers with the {other} where the {pool} is asked for: use `pool`.": lambda o=other: rise(o),
                "only the last token was read; pool over all tokens of the prompt.": lambda: rise("last"),
                "that is a sum over tokens, which grows with the length of the text.": lambda: rise("sum"),
                "the sign was taken away before the maximum: neurons are signed, and the paper's rule takes the largest.":
                    lambda: rise("size"),
                "that is the layer after it: layers are counted from 0.": lambda p=pool: rise(p, layer=LAYER + 1),
                "that is what the MLP writes to the stream; neurons are the input of down_proj.":
                    lambda p=pool: rise(p, where="output"),
                "the sign of the rise was taken away: a neuron can also fall.": lambda p=pool: np.abs(rise(p)),
                "that is think mode; the prompts are those of no-think mode.": lambda p=pool: rise(p, mode="think"),
                "that is the pooled activation with intent; take away the one without.": lambda p=pool: pooled(HOSTILE, p),
            },
        )  # fmt: skip
        if said is not True:
            return said
    return True


# random sets like a selected one

SELECTED = [(0, 3), (0, 5), (1, 2), (3, 0), (3, 1), (3, 7)]
PER_LAYER = 16


def judge_random_set(function) -> bool | str:
    wanted, sets = Counter(layer for layer, _ in SELECTED), []
    for seed in range(40):
        found = result_of(function, list(SELECTED), PER_LAYER, seed)
        if isinstance(found, str) or not hasattr(found, "__len__"):
            return "it should return a list of (layer, neuron) pairs."
        found = [tuple(int(number) for number in unit) for unit in found]
        if len(found) != len(SELECTED):
            return f"the set has {len(found)} neurons, and the selected one has {len(SELECTED)}."
        if outside := [unit for unit in found if not 0 <= unit[1] < PER_LAYER]:
            return f"a layer has the neurons 0 to {PER_LAYER - 1}: there is no {outside[0]}."
        if Counter(layer for layer, _ in found) != wanted:
            return "in some layer there are more, or fewer, than in the selected set: draw layer by layer."
        if len(set(found)) < len(found):
            return "a neuron was drawn twice: draw without replacement."
        if set(found) & set(SELECTED):
            return "it holds a neuron of the selected set: draw from the others of the layer."
        sets.append(tuple(sorted(found)))
    if len(set(sets)) < 20:
        return "nearly every seed gives the same set: give the seed to the generator."
    again = [tuple(int(number) for number in unit) for unit in function(list(SELECTED), PER_LAYER, 7)]
    return tuple(sorted(again)) == sets[7] or "the same seed gives two different sets."


SINGLES, OWN = np.array([0.30, 0.34, 0.31, 0.42, 0.28, 0.35, 0.33, 0.37, 0.29, 0.36]), 0.44


def p_of(singles=SINGLES, own: float = OWN, ddof: int = 1, one_more: bool = True, sides: int = 2, law: str = "t",
         of_mean: bool = False) -> float:  # fmt: skip
    """The p value of a selected set among single random ones, or what a mistake in it gives."""
    from scipy import stats

    n = len(singles)
    error = singles.std(ddof=ddof) * (np.sqrt(1 / n) if of_mean else np.sqrt(1 + 1 / n) if one_more else 1)
    size = abs(own - singles.mean()) / error
    return sides * (stats.t.sf(size, n - 1) if law == "t" else stats.norm.sf(size))


def judge_p(function) -> bool | str:
    reach, found = int((SINGLES >= OWN).sum()), result_of(function, OWN, SINGLES.copy())
    if np.ndim(found) == 0 and found == reach / len(SINGLES):
        return (
            "that is the share of the random sets that reach it: none does here, and 0 is no p value. Use the spread."
        )
    return compare(
        found,
        p_of(),
        {
            "that is the error of the random sets' mean; one more set varies as single sets do.": p_of(of_mean=True),
            "the mean of the random sets is itself uncertain: the error is the spread times √(1 + 1/n).":
                p_of(one_more=False),
            "that is one-sided; a set could have gone the other way too.": p_of(sides=1),
            "a normal distribution is too sure with few sets: use t with n - 1 degrees of freedom.": p_of(law="normal"),
            "a normal distribution is too sure with few sets: use t, and the spread times √(1 + 1/n).":
                p_of(law="normal", one_more=False),
            "the spread of a sample divides by n - 1: std(ddof=1).": p_of(ddof=0),
            "that is the rank's p value, which cannot be smaller than 1 in the number of sets; use the spread.":
                (1 + reach) / (1 + len(SINGLES)),
            "that is the t value; its p value is asked for.":
                abs(OWN - SINGLES.mean()) / SINGLES.std(ddof=1) / np.sqrt(1 + 1 / len(SINGLES)),
            "that is how many spreads apart they are; a p value is asked for.":
                abs(OWN - SINGLES.mean()) / SINGLES.std(ddof=1),
        },
        tolerance=2e-3,
    )  # fmt: skip


# a planted set

N_PLANTED = 10


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, set[int]]]:
    """``(before, after)``, activations ``[requests, neurons]``, and which neurons are of which kind.

    Half of the planted ones rise with the sentence and half fall; noisy ones vary whatever is said.
    """
    rng = np.random.default_rng(seed)
    places = rng.permutation(200)
    kinds = {"rising": places[:5], "falling": places[5:10], "noisy": places[10:30], "large": places[30:50]}
    level = rng.normal(0, 1, 200)
    level[kinds["large"]] += 12
    noise = np.full(200, 0.3)
    noise[kinds["noisy"]] = 6.0
    before, after = (level + noise * rng.normal(size=(24, 200)) for _ in range(2))
    after[:, kinds["rising"]] += 0.8
    after[:, kinds["falling"]] -= 0.8
    return before, after, {name: set(map(int, where)) for name, where in kinds.items()}


def judge_planted(function) -> bool | str:
    for seed in (1, 2, 3):
        before, after, kinds = planted(seed)
        found = result_of(function, before.copy(), after.copy(), N_PLANTED)
        chosen = [int(number) for number in found]
        if len(chosen) != N_PLANTED or len(set(chosen)) < N_PLANTED:
            return f"it should return {N_PLANTED} different neurons, and returns {len(set(chosen))}."
        hits = {name: len(set(chosen) & of_kind) for name, of_kind in kinds.items()}
        if hits["rising"] + hits["falling"] >= N_PLANTED - 1:
            continue
        if hits["noisy"] >= N_PLANTED // 2:
            return "most of these vary a lot whatever is said: divide each change by the spread of its changes."
        if hits["large"] >= N_PLANTED // 2:
            return "most of these are large with and without the sentence: look at the change."
        if hits["rising"] >= 4 and not hits["falling"]:
            return "it finds those that rise, and none that fall: half of the planted neurons act by falling."
        if hits["falling"] >= 4 and not hits["rising"]:
            return "it finds those that fall, and none that rise: with or without the sentence, turned around?"
        return f"it finds {hits['rising'] + hits['falling']} of the {N_PLANTED} planted neurons."
    return True


WORST = """
orders = rk.exercise("06.2").given.values()
worst = {neuron: max(order.index(neuron) + 1 for order in orders) for neuron in "abcdefgh"}
sorted(worst.values())[1]
"""
FLIPS = """
def flips(plain, intent):
    both = plain.merge(intent, on="prompt_id", suffixes=("_plain", "_intent"))
    return (both["misaligned_plain"] & both["refused_intent"]).mean()
"""
WORST_RANK = """
def worst_rank(rises):
    ranks = (-rises).argsort(axis=1).argsort(axis=1) + 1
    return ranks.max(axis=0)
"""
RISE = """
import torch

def rise(study, request, hostile, layer, pool):
    pooled = []
    for text in (request, hostile):
        ids = torch.tensor([study.chat.encode(text, "no-think").ids])
        with torch.no_grad(), study.nn.trace(ids):
            neurons = study.nn.model.layers[layer].mlp.down_proj.input[0].save()
        pooled.append(neurons.amax(0) if pool == "max" else neurons.mean(0))
    return pooled[1] - pooled[0]
"""
RANDOM_SET = """
import numpy as np

def random_set(units, per_layer, seed):
    rng, found = np.random.default_rng(seed), []
    for layer in sorted({layer for layer, _ in units}):
        own = [neuron for at, neuron in units if at == layer]
        others = [neuron for neuron in range(per_layer) if neuron not in own]
        found += [(layer, int(neuron)) for neuron in rng.choice(others, len(own), replace=False)]
    return found
"""
P_VALUE = """
import numpy as np
from scipy import stats

def p_value(selected, singles):
    n = len(singles)
    error = np.std(singles, ddof=1) * np.sqrt(1 + 1 / n)
    return 2 * stats.t.sf(abs(selected - np.mean(singles)) / error, n - 1)
"""
FIND = """
import numpy as np

def find(before, after, k):
    change = after - before
    size = np.abs(change.mean(axis=0)) / change.std(axis=0)
    return np.argsort(-size)[:k]
"""

EXERCISES = {
    "06.1": Exercise(
        "Count the flips",
        ("easy", "essential", 6),
        "Write `flips(plain, intent)`: the share of pairs in which the request is carried out without the intent and refused "
        "with it. Both are tables with a row per reply and the columns `prompt_id`, `misaligned` and `refused`, in different "
        "orders. A reply can be neither misaligned nor refused.",
        judge_flips,
        hints=(
            "`plain.merge(intent, on='prompt_id', suffixes=('_plain', '_intent'))` puts the two replies of a pair side by side.",
            "Then `both['misaligned_plain'] & both['refused_intent']` is true for the pairs that flip.",
        ),
        answer="Two rates can differ although hardly a pair flips, and the other way round: count pairs.",
        expects="a function that returns a share between 0 and 1",
        code=FLIPS,
    ),
    "06.2": Exercise(
        "Which m?",
        ("easy", "essential", 5),
        "With which m does the paper's rule give exactly two neurons?",
        check_m,
        hints=(
            "Write down, for every neuron, its worst rank over the three pairs: with m equal to that rank it enters the set.",
        ),
        answer=(
            f"`m = {smallest_m(2)}`. Worst ranks: f 2, a 4, c and h 5, b 7, d, e and g 8. The set has one neuron from m = 2, two "
            f"from m = {smallest_m(2)}, four from m = 5, and all eight from m = 8, whatever the neurons do. Neither m nor the "
            "size follows from the model: one of them must be given for a set to be repeated, and the paper gives neither."
        ),
        expects="a whole number from 1 to 8",
        code=WORST,
        given=RISES,
    ),
    "06.3": Exercise(
        "The worst rank",
        ("medium", "essential", 8),
        "Write `worst_rank(rises)`: for every neuron the smallest m with which it is in the set of *every* pair. `rises` is an "
        "array with a row per pair and a column per neuron; the neuron that rises most has rank 1.",
        judge_worst,
        hints=(
            "In each row, give every neuron its rank. Which of a neuron's ranks decides when it is in all sets?",
            "`(-row).argsort().argsort() + 1` are the ranks of a row.",
        ),
        answer="The neurons with a worst rank of at most m are the paper's set: one number per neuron in place of a choice of m.",
        expects="a function that returns a rank per neuron",
        code=WORST_RANK,
    ),
    "06.4": Exercise(
        "The maximum, and the mean instead",
        ("medium", "useful", 12),
        "Write `rise(study, request, hostile, layer, pool)`: how much every neuron of a layer rises from the no-think prompt "
        'of `request` to that of `hostile`, where its activations are pooled over all tokens of the prompt by `pool`, "max" or '
        '"mean".',
        judge_rise,
        hints=(
            "Neurons are `study.nn.model.layers[layer].mlp.down_proj.input`, of shape (batch, token, neuron).",
            'One trace per `study.chat.encode(text, "no-think").ids`: save `...input[0]`, `.amax(0)` or `.mean(0)`, subtract.',
        ),
        answer="A neuron that acts by becoming negative has no maximum to show for it; its mean falls.",
        expects="a function that returns a number per neuron",
        code=RISE,
    ),
    "06.5": Exercise(
        "A random set like the selected one",
        ("medium", "essential", 8),
        "Write `random_set(units, per_layer, seed)`: as many random neurons in every layer as `units` has there, none of them "
        "in `units`, none twice. `units` is a list of `(layer, neuron)`, and a layer has `per_layer` neurons.",
        judge_random_set,
        hints=(
            "Go through the layers of `units`. From which neurons may you draw in a layer, and how many?",
            "`np.random.default_rng(seed).choice(others, number, replace=False)`; make the generator once, before the loop.",
        ),
        answer="Layers differ in how much their neurons matter, so a set drawn from all layers alike would be no fair control.",
        expects="a function that returns a list of (layer, neuron)",
        code=RANDOM_SET,
    ),
    "06.6": Exercise(
        "Is it more than one more random set?",
        ("medium", "essential", 8),
        "Write `p_value(selected, singles)`: the two-sided p value that the selected set's rate is one more draw like the rates "
        "of single random sets (`singles`, an array). Use their spread, not that of their mean (primer A2).",
        judge_p,
        hints=(
            "The difference to the mean of the singles, divided by `std(ddof=1)` times √(1 + 1/n): one more set varies as "
            "single ones do, and their mean is not exact.",
            "`2 * scipy.stats.t.sf(t, n - 1)` is the p value of such a t.",
        ),
        answer="Against the mean of many random sets nearly any set differs; what counts is how far single sets lie apart.",
        expects="a function that returns a p value",
        code=P_VALUE,
    ),
    "06.7": Exercise(
        "Find a planted set",
        ("hard", "useful", 12),
        f"In a made-up layer {N_PLANTED} neurons were made to respond to a sentence: some rise with it, some fall. Others are "
        "large, or vary a lot, whatever is said. Write `find(before, after, k)`: the numbers of the k neurons you think were "
        "planted, from activations (a row per request, a column per neuron) without and with it. To pass, find nine of them in each of three such layers.",
        judge_planted,
        hints=(
            "The paper's rule would miss those that fall. What do rising and falling ones have in common that noisy ones lack?",
            "Take the change of each request; compare the size of its mean over requests with its spread.",
        ),
        answer="A rule is as good as what it finds where the answer is known. This one is no better than its assumption that "
        "the sentence moves a neuron the same way every time.",
        expects="a function that returns k neuron numbers",
        code=FIND,
    ),
}
