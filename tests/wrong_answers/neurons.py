"""What learners write about neurons (06) and RAS (07), each with one mistake, and words of the message meant for it."""

import numpy as np
import torch
from scipy import stats

# -- chapter 06: pairs and ranks --


def flips_by_row(plain, intent):
    return (plain["misaligned"] & intent["refused"]).mean()


def rise_of_the_rate(plain, intent):
    return intent["refused"].mean() - plain["refused"].mean()


def refused_at_all(plain, intent):
    return intent["refused"].mean()


def matched(plain, intent):
    return plain.merge(intent, on="prompt_id", suffixes=("_plain", "_intent"))


def share_of_the_done(plain, intent):
    both = matched(plain, intent)
    return both.loc[both["misaligned_plain"], "refused_intent"].mean()


def number_of_flips(plain, intent):
    both = matched(plain, intent)
    return (both["misaligned_plain"] & both["refused_intent"]).sum()


def no_longer_done(plain, intent):
    both = matched(plain, intent)
    return (both["misaligned_plain"] & ~both["misaligned_intent"]).mean()


def not_refused_before(plain, intent):
    both = matched(plain, intent)
    return (~both["refused_plain"] & both["refused_intent"]).mean()


def best_rank(rises):
    return ((-rises).argsort(1).argsort(1) + 1).min(0)


def from_zero(rises):
    return (-rises).argsort(1).argsort(1).max(0)


def least_first(rises):
    return (rises.argsort(1).argsort(1) + 1).max(0)


def mean_rank(rises):
    return ((-rises).argsort(1).argsort(1) + 1).mean(0)


def argsort_once(rises):
    return ((-rises).argsort(1) + 1).max(0)


def rank_of_the_mean(rises):
    return (-rises.mean(0)).argsort().argsort() + 1


def by_pair(rises):
    return ((-rises).argsort(1).argsort(1) + 1).max(1)


# -- chapter 06: pooled activations --


def neurons(study, text, layer, mode="no-think"):
    ids = torch.tensor([study.chat.encode(text, mode).ids])
    with torch.no_grad(), study.nn.trace(ids):
        found = study.nn.model.layers[layer].mlp.down_proj.input[0].save()
    return found


def always_the_maximum(study, request, hostile, layer, pool):
    return neurons(study, hostile, layer).amax(0) - neurons(study, request, layer).amax(0)


def at_the_end(study, request, hostile, layer, pool):
    return neurons(study, hostile, layer)[-1] - neurons(study, request, layer)[-1]


def rise_turned(study, request, hostile, layer, pool):
    one, other = (neurons(study, text, layer) for text in (request, hostile))
    return one.amax(0) - other.amax(0) if pool == "max" else one.mean(0) - other.mean(0)


def rise_a_layer_later(study, request, hostile, layer, pool):
    one, other = (neurons(study, text, layer + 1) for text in (request, hostile))
    return other.amax(0) - one.amax(0) if pool == "max" else other.mean(0) - one.mean(0)


def sizes_first(study, request, hostile, layer, pool):
    one, other = (neurons(study, text, layer).abs() for text in (request, hostile))
    return other.amax(0) - one.amax(0)


def rise_in_think_mode(study, request, hostile, layer, pool):
    one, other = (neurons(study, text, layer, "think") for text in (request, hostile))
    return other.amax(0) - one.amax(0)


def what_is_written(study, request, hostile, layer, pool):
    pooled = []
    for text in (request, hostile):
        with torch.no_grad(), study.nn.trace(torch.tensor([study.chat.encode(text, "no-think").ids])):
            out = study.nn.model.layers[layer].mlp.output[0].save()
        pooled.append(out.amax(0))
    return pooled[1] - pooled[0]


def over_neurons(study, request, hostile, layer, pool):
    return neurons(study, hostile, layer).amax(1)


# -- chapter 06: random sets, p, a planted set --


def any_layer(units, per_layer, seed):
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(4)), int(rng.integers(per_layer))) for _ in units]


def with_the_selected(units, per_layer, seed):
    rng, found = np.random.default_rng(seed), []
    for layer in {layer for layer, _ in units}:
        number = sum(at == layer for at, _ in units)
        found += [(layer, int(one)) for one in rng.choice(per_layer, number, replace=False)]
    return found


def drawn_twice(units, per_layer, seed):
    rng, found = np.random.default_rng(seed), []
    for layer, _ in units:
        others = [one for one in range(per_layer) if (layer, one) not in units]
        found.append((layer, int(rng.choice(others))))
    return found


def always_the_same(units, per_layer, seed):
    found = []
    for layer in {layer for layer, _ in units}:
        others = [one for one in range(per_layer) if (layer, one) not in units]
        found += [(layer, one) for one in others[: sum(at == layer for at, _ in units)]]
    return found


def one_a_layer(units, per_layer, seed):
    return [(layer, seed % 2 + 9) for layer in {layer for layer, _ in units}]


def t_of(selected, singles, one_more=True):
    return abs(selected - singles.mean()) / singles.std(ddof=1) / np.sqrt(1 + one_more / len(singles))


def error_of_the_mean(selected, singles):
    return stats.ttest_1samp(singles, selected).pvalue


def without_one_more(selected, singles):
    return 2 * stats.t.sf(t_of(selected, singles, False), len(singles) - 1)


def p_of_one_side(selected, singles):
    return stats.t.sf(t_of(selected, singles), len(singles) - 1)


def p_of_the_normal(selected, singles):
    return 2 * stats.norm.sf(t_of(selected, singles))


def p_of_the_plain_normal(selected, singles):
    return 2 * stats.norm.sf(t_of(selected, singles, False))


def share_that_reach_it(selected, singles):
    return (singles >= selected).mean()


def p_of_the_rank(selected, singles):
    return (1 + (singles >= selected).sum()) / (1 + len(singles))


def the_papers_rule(before, after, k):
    return np.argsort(-(after - before).mean(0))[:k]


def largest_change(before, after, k):
    return np.argsort(-np.abs(after - before).max(0))[:k]


def largest_at_all(before, after, k):
    return np.argsort(-after.mean(0))[:k]


def falling_alone(before, after, k):
    change = after - before
    return np.argsort(change.mean(0) / change.std(0))[:k]


def rising_alone(before, after, k):
    change = after - before
    return np.argsort(-change.mean(0) / change.std(0))[:k]


# -- chapter 07 --


def of(a, b, c, d, floor, guard=True, over_all=True, by="smaller"):
    found = []
    for small, large in ((b, a), (c, d)):
        counts = (large > small) & ((small > floor) | (not guard))
        terms = ((large - small) / {"smaller": small, "larger": large, "none": 1 + 0 * small}[by] * large)[counts]
        found.append(terms.sum() / (len(small) if over_all else counts.sum()))
    return found


def harmonic(fall, rise):
    return 2 * fall * rise / (fall + rise)


def no_guard(a, b, c, d, floor):
    return harmonic(*of(a, b, c, d, floor, guard=False))


def clipped(a, b, c, d, floor):
    pairs = (b, a), (c, d)
    return harmonic(
        *((np.clip(large - small, 0, None) / np.maximum(small, floor) * large).mean() for small, large in pairs)
    )


def movers_alone(a, b, c, d, floor):
    return harmonic(*of(a, b, c, d, floor, over_all=False))


def by_the_larger(a, b, c, d, floor):
    return harmonic(*of(a, b, c, d, floor, by="larger"))


def larger_unguarded(a, b, c, d, floor):
    return harmonic(*of(a, b, c, d, floor, guard=False, by="larger"))


def turned_ratio(a, b, c, d, floor):
    pairs = ((np.minimum(one, two), np.maximum(one, two), one < two) for one, two in ((b, a), (c, d)))
    return harmonic(*(np.where(rise & (s > floor), (n - s) / n * s, 0).mean() for s, n, rise in pairs))


def arithmetic(a, b, c, d, floor):
    return sum(of(a, b, c, d, floor)) / 2


def geometric(a, b, c, d, floor):
    return np.prod(of(a, b, c, d, floor)) ** 0.5


def the_fall(a, b, c, d, floor):
    return of(a, b, c, d, floor)[0]


def the_rise(a, b, c, d, floor):
    return of(a, b, c, d, floor)[1]


def exchanged(a, b, c, d, floor):
    return harmonic(*of(b, a, d, c, floor))


def untouched(a, b, c, d, floor):
    return a, b, c, d


def one_side_explodes(a, b, c, d, floor):
    b[b.argmin()] = 1.5 * floor
    return a, b, c, d


def below_the_floor(a, b, c, d, floor):
    b[b.argmin()], c[c.argmin()] = floor / 2, floor / 2
    return a, b, c, d


def all_of_them(a, b, c, d, floor):
    return a, b - 0.25, c - 0.25, d


def too_far(a, b, c, d, floor):
    b[b.argmax()] = 1.5 * floor
    return a, b, c, d


def rank_of(reached, n):
    return 1 + reached, (1 + reached) / (1 + n)


def ties_aside(own, others):
    return rank_of((others > own).sum(), len(others))


def ties_aside_in_the_rank(own, others):
    return 1 + (others > own).sum(), rank_of((others >= own).sum(), len(others))[1]


def share_of_others(own, others):
    return 1 + (others >= own).sum(), (others >= own).mean()


def rank_from_zero(own, others):
    return (others >= own).sum(), (1 + (others >= own).sum()) / (1 + len(others))


def from_the_lowest(own, others):
    return rank_of((others <= own).sum(), len(others))


def both_sides(own, others):
    rank, p = rank_of((others >= own).sum(), len(others))
    return rank, min(1, 2 * p)


def ties_and_itself_aside(own, others):
    return 1 + (others > own).sum(), (others >= own).mean()


def the_rank_alone(own, others):
    return 1 + (others >= own).sum()


def percentiles(x, y, rows, tail=2.5):
    found = [np.corrcoef(x[one], y[other])[0, 1] for one, other in rows]
    return np.percentile(found, [tail, 100 - tail])


def rows_of(families, rng):
    names = np.unique(families)
    return np.concatenate([np.flatnonzero(families == name) for name in rng.choice(names, len(names))])


def corpora_one_by_one(x, y, families):
    rng = np.random.default_rng(1)
    return percentiles(x, y, [(rows, rows) for rows in rng.integers(0, len(x), (2000, len(x)))])


def drawn_apart(x, y, families):
    rng = np.random.default_rng(1)
    return percentiles(x, y, [(rows_of(families, rng), rows_of(families, rng)) for _ in range(2000)])


def families_at_ninety(x, y, families):
    rng = np.random.default_rng(1)
    return percentiles(x, y, [(rows, rows) for rows in (rows_of(families, rng) for _ in range(2000))], 5)


def repeats_lost(x, y, families):
    rng, names = np.random.default_rng(1), np.unique(families)
    rows = [np.isin(families, rng.choice(names, len(names))) for _ in range(2000)]
    return percentiles(x, y, [(one, one) for one in rows])


def nothing_drawn(x, y, families):
    return percentiles(x, y, [(slice(None), slice(None))] * 3)


def one_left_out(x, y, families):
    found = [np.corrcoef(x[families != name], y[families != name])[0, 1] for name in np.unique(families)]
    return min(found), max(found)


def the_mean_change(known, new, column):
    return np.full(len(new), known["change"].mean())


def slope_alone(known, new, column):
    return np.polyfit(known[column], known["change"], 1)[0] * new[column]


def through_zero(known, new, column):
    return (known[column] @ known["change"]) / (known[column] @ known[column]) * new[column]


def line_turned(known, new, column):
    return np.polyval(np.polyfit(known["change"], known[column], 1), new[column])


def predictor_itself(known, new, column):
    return new[column]


def fit_to_the_known(known, new, column):
    return np.polyval(np.polyfit(known[column], known["change"], 1), known[column])


def fit_to_the_new(known, new, column):
    return np.polyval(np.polyfit(new[column], new["change"], 1), new[column])


def another_column(known, new, column):
    return np.polyval(np.polyfit(known["weights"], known["change"], 1), new["weights"])


WRONG = {
    "06.1": [
        (flips_by_row, "match them by prompt_id"), (rise_of_the_rate, "go the other way"),
        (refused_at_all, "whatever happened without it"), (share_of_the_done, "the share of all pairs"),
        (number_of_flips, "not a share"), (no_longer_done, "may be misread: ask for a refusal"),
        (not_refused_before, "a request that was carried out"),
    ],
    "06.3": [
        (best_rank, "best rank"), (from_zero, "count from 1"), (least_first, "rises least"), (mean_rank, "mean rank"),
        (argsort_once, "apply it twice"), (rank_of_the_mean, "averaged before"), (by_pair, "shape"),
    ],
    "06.4": [
        (always_the_maximum, "use `pool`"), (at_the_end, "only the last token"), (rise_turned, "sign is turned around"),
        (rise_a_layer_later, "the layer after it"), (sizes_first, "sign was taken away before"),
        (rise_in_think_mode, "that is think mode"), (what_is_written, "shape"), (over_neurons, "shape"),
    ],
    "06.5": [
        (any_layer, "draw layer by layer"), (with_the_selected, "neuron of the selected set"),
        (drawn_twice, "drawn twice"), (always_the_same, "give the seed"), (one_a_layer, "neurons, and the selected one has"),
    ],
    "06.6": [
        (error_of_the_mean, "random sets' mean"), (without_one_more, "is itself uncertain"), (p_of_one_side, "one-sided"),
        (p_of_the_normal, "too sure"), (p_of_the_plain_normal, "and the spread times"), (p_of_the_rank, "rank's p value"),
        (share_that_reach_it, "0 is no p value"),
    ],
    "06.7": [
        (the_papers_rule, "vary a lot"), (largest_change, "vary a lot"), (largest_at_all, "large with and without"),
        (falling_alone, "none that rise"), (rising_alone, "none that fall"),
    ],
    "07.2": [
        (no_guard, "contribute 0"), (clipped, "(clip)"), (movers_alone, "it is over all"),
        (by_the_larger, "larger activation"), (larger_unguarded, "with no guard"), (turned_ratio, "other way round"), (arithmetic, "arithmetic mean"), (geometric, "geometric mean"),
        (the_fall, "fall alone"), (the_rise, "rise alone"), (exchanged, "exchanged"),
    ],
    "07.3": [
        (untouched, "nothing was changed"), (one_side_explodes, "both have to explode"),
        (below_the_floor, "before the guard drops it"), (all_of_them, "are allowed"), (too_far, "is allowed"),
    ],
    "07.4": [
        (ties_aside, "count it"), (ties_aside_in_the_rank, "ties with it"), (share_of_others, "one of the draws"), (rank_from_zero, "rank 1 is the highest"),
        (from_the_lowest, "from the lowest"), (both_sides, "two-sided"), (the_rank_alone, "shape"), (ties_and_itself_aside, "counts the set itself"),
    ],
    "07.5": [
        (corpora_one_by_one, "one by one"), (drawn_apart, "drawn apart"), (families_at_ninety, "90% interval"),
        (repeats_lost, "as often as it came"), (nothing_drawn, "with replacement"), (one_left_out, "leaving one family out"),
    ],
    "07.6": [
        (the_mean_change, "same for every tuning"), (slope_alone, "where the line starts"),
        (through_zero, "pass through zero"), (line_turned, "were exchanged"), (predictor_itself, "predictor itself"),
        (fit_to_the_known, "shape"), (fit_to_the_new, "KeyError"), (another_column, "take `column`"),
    ],
}  # fmt: skip
