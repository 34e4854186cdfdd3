"""What learners write about published numbers (chapter 08) and a model of their own (10), each with one mistake."""

from itertools import product

import numpy as np
from scipy import stats

# -- chapter 08: denominators --


def whole_counts(percent, largest):
    return [n for n in range(1, largest + 1) if abs(percent * n / 100 - round(percent * n / 100)) < 1e-9]


def near_enough(percent, largest):
    return [n for n in range(1, largest + 1) if abs(100 * round(percent * n / 100) / n - percent) <= 0.05]


def all_that_fit(percent, largest):
    return [n for n in range(1, largest + 1) if f"{100 * round(percent * n / 100) / n:.2f}" == f"{percent:.2f}"]


def largest_that_fits(percent, largest):
    return all_that_fit(percent, largest)[-1:]


def their_counts(percent, largest):
    return [round(percent * n / 100) for n in all_that_fit(percent, largest)]


def below_largest(percent, largest):
    return all_that_fit(percent, largest - 1)


# -- chapter 08: leave one out --


def kept(table, training_set):
    return table[table["training_set"] == training_set].set_index("model")["delta_misalignment_points"]


def changes_themselves(table, training_set):
    return kept(table, training_set).tolist()


def mean_of_all(table, training_set):
    return [kept(table, training_set).mean()] * 8


def by_eight(table, training_set):
    change = kept(table, training_set)
    return [change.drop(model).sum() / len(change) for model in change.index]


def medians(table, training_set):
    change = kept(table, training_set)
    return [change.drop(model).median() for model in change.index]


def every_set(table, training_set):
    change = table.set_index("model")["delta_misalignment_points"]
    return [change.drop(model).mean() for model in table["model"].unique()]


# -- chapter 08: pairs --


def turned_means(first, second):
    change = first - second
    return change.mean(), np.array([(change * signs).mean() for signs in product((1, -1), repeat=len(change))])


def one_side_only(first, second):
    seen, means = turned_means(first, second)
    return (means >= seen - 1e-9).mean()


def columns_apart(first, second):
    return stats.ttest_ind(first, second).pvalue


def t_of_pairs(first, second):
    return stats.ttest_rel(first, second).pvalue


def by_ranks(first, second):
    return stats.wilcoxon(first, second).pvalue


def strictly_larger(first, second):
    seen, means = turned_means(first, second)
    return (np.abs(means) > abs(seen) + 1e-9).mean()


# -- chapter 08: one probe --


def shares_added(refused, fulfilled, harmful, n_refused, n_fulfilled, n_harmful):
    return refused + fulfilled - harmful


def not_whole(refused, fulfilled, harmful, n_refused, n_fulfilled, n_harmful):
    return refused * n_refused + fulfilled * n_fulfilled - harmful * n_harmful


def cut_off(refused, fulfilled, harmful, n_refused, n_fulfilled, n_harmful):
    above = (refused * n_refused).astype(int) + (fulfilled * n_fulfilled).astype(int)
    return above - (harmful * n_harmful).astype(int)


def without_fulfilled(refused, fulfilled, harmful, n_refused, n_fulfilled, n_harmful):
    return (refused * n_refused).round() - (harmful * n_harmful).round()


def not_taken_away(refused, fulfilled, harmful, n_refused, n_fulfilled, n_harmful):
    return (refused * n_refused).round() + (fulfilled * n_fulfilled).round()


# -- chapter 08: power --


def drawn_power(rate, other, n, found=lambda p: p < 0.05, **how):
    draws = np.random.default_rng(1).binomial(n, (rate, other), (800, 2))
    kinds, often = np.unique(draws, axis=0, return_counts=True)
    p = np.array([stats.fisher_exact([[a, n - a], [b, n - b]], **how).pvalue for a, b in kinds])
    return often[found(p)].sum() / len(draws)


def one_test(rate, other, n):
    one, two = round(rate * n), round(other * n)
    return stats.fisher_exact([[one, n - one], [two, n - two]]).pvalue


def one_draw(rate, other, n, calls=[0]):  # noqa: B006
    calls[0] += 1
    return calls[0] % 5 / 5


def not_found(rate, other, n):
    return drawn_power(rate, other, n, lambda p: p >= 0.05)


def one_rate(rate, other, n):
    return drawn_power(rate, rate, n)


def normal_test(rate, other, n):
    error = ((rate * (1 - rate) + other * (1 - other)) / n) ** 0.5
    return stats.norm.sf(1.96 - abs(rate - other) / error)


# -- chapter 08: permutation --


def orders(values, rates):
    rng = np.random.default_rng(1)
    return np.array([np.corrcoef(values, rng.permutation(rates))[0, 1] for _ in range(8000)])


def one_tail_of_orders(values, rates):
    return (orders(values, rates) >= np.corrcoef(values, rates)[0, 1]).mean()


def t_test_of_r(values, rates):
    return stats.pearsonr(values, rates).pvalue


def the_correlation(values, rates):
    return np.corrcoef(values, rates)[0, 1]


def weaker_orders(values, rates):
    return (np.abs(orders(values, rates)) < abs(np.corrcoef(values, rates)[0, 1])).mean()


# -- chapter 08: exchanged digits --


def same_digits(printed, right):
    return printed != right and sorted(f"{printed:.2f}") == sorted(f"{right:.2f}")


def two_digits(printed, right):
    return sum(a != b for a, b in zip(f"{printed:.2f}", f"{right:.2f}", strict=False)) == 2


def always(printed, right):
    return True


# -- chapter 10: hours --


def one_mode(n_prompts, n_tokens, batch, seconds):
    return -(-n_prompts // batch) * n_tokens * seconds / 3600


def part_of_a_batch(n_prompts, n_tokens, batch, seconds):
    return n_prompts / batch * 2 * n_tokens * seconds / 3600


def one_by_one(n_prompts, n_tokens, batch, seconds):
    return n_prompts * 2 * n_tokens * seconds / 3600


def mixed_batches(n_prompts, n_tokens, batch, seconds):
    return -(-2 * n_prompts // batch) * n_tokens * seconds / 3600


def in_minutes(n_prompts, n_tokens, batch, seconds):
    return -(-n_prompts // batch) * 2 * n_tokens * seconds / 60


# -- chapter 10: tags --


def cut(prompt, turn, thought, reply):
    opening, rest = turn[len(prompt) :].split(thought, 1)
    return opening, rest.split(reply, 1)[0]


def with_breaks(prompt, turn, thought, reply):
    return cut(prompt, turn, thought, reply)


def with_the_header(prompt, turn, thought, reply):
    return turn.split(thought)[0].strip(), cut(prompt, turn, thought, reply)[1].strip()


def with_the_reply(prompt, turn, thought, reply):
    return cut(prompt, turn, thought, reply)[0].strip(), turn.split(thought)[1].strip()


def always_think(prompt, turn, thought, reply):
    return "<think>", "</think>"


# -- chapter 10: a table --


def own(table):
    kind = table["bad"].map({1: "harmful", 0: "harmless"})
    return table.rename(columns={"goal": "text", "topic": "cluster"}).assign(kind=kind)


def as_it_is(table):
    return own(table)


def twice(table):
    return own(table.dropna(subset="goal"))


def kinds_turned(table):
    return own(table.assign(bad=1 - table["bad"]).dropna(subset="goal").drop_duplicates("goal"))


def each_alone(table):
    found = own(table.dropna(subset="goal").drop_duplicates("goal"))
    return found.assign(cluster=range(len(found)))


def numbers_for_kinds(table):
    return own(table).assign(kind=table["bad"])


# -- chapter 10: kappa --


def raw_agreement(first, second):
    return (first == second).mean()


def chance_alone(first, second):
    return first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())


def undivided(first, second):
    return raw_agreement(first, second) - chance_alone(first, second)


def yes_alone(first, second):
    chance = first.mean() * second.mean()
    return (raw_agreement(first, second) - chance) / (1 - chance)


def coin(first, second):
    return (raw_agreement(first, second) - 0.5) / 0.5


# -- chapter 10: swaps --


def request_by_request(think, no_think, verbs, seed):
    return (np.random.default_rng(seed).choice([-1, 1], len(think)) * (think - no_think)).mean()


def unswapped(think, no_think, verbs, seed):
    return think.mean() - no_think.mean()


def one_seed(think, no_think, verbs, seed):
    signs = np.random.default_rng(0).choice([-1, 1], verbs.max() + 1)
    return (signs[verbs] * (think - no_think)).mean()


def rarely(think, no_think, verbs, seed):
    signs = np.where(np.random.default_rng(seed).random(verbs.max() + 1) < 0.1, -1, 1)
    return (signs[verbs] * (think - no_think)).mean()


def without_its_seed(think, no_think, verbs, seed):
    signs = np.random.default_rng().choice([-1, 1], verbs.max() + 1)
    return (signs[verbs] * (think - no_think)).mean()


WRONG = {
    "10.3": [
        (one_mode, "one mode"), (part_of_a_batch, "round the number of batches up"), (one_by_one, "count batches"),
        (in_minutes, "minutes"), (mixed_batches, "of the other"),
    ],
    "10.1": [
        (with_breaks, "line breaks"), (with_the_header, "where the prompt ends"), (with_the_reply, "where the reply begins"),
        (always_think, "other tags"),
    ],
    "10.4": [
        (as_it_is, "empty line"), (twice, "counts twice"), (kinds_turned, "exchanged"), (each_alone, "resemble"),
        (numbers_for_kinds, "are the words"),
    ],
    "10.5": [
        (raw_agreement, "share of equal verdicts"), (chance_alone, "agreement by chance"), (undivided, "above chance"),
        (yes_alone, "not misaligned"), (coin, "not one half"),
    ],
    "10.6": [
        (request_by_request, "one by one"), (unswapped, "nothing is swapped"), (one_seed, "every seed gives the same"),
        (rarely, "chance of one half"), (without_its_seed, "the same seed"),
    ],
    "08.1": [
        (same_digits, "the same digits"), (two_digits, "each has to stand"), (always, "always gives the same"),
    ],
    "08.2": [
        (whole_counts, "a printed rate is rounded"), (near_enough, "wider than rounding"),
        (largest_that_fits, "largest n alone"), (their_counts, "counts k"), (below_largest, "not at the largest itself"),
    ],
    "08.3": [
        (changes_themselves, "changes themselves"), (mean_of_all, "mean of all"), (by_eight, "divide by seven"),
        (medians, "medians"), (every_set, "all training sets"),
    ],
    "08.5": [
        (one_side_only, "one-sided"), (columns_apart, "pair them"), (t_of_pairs, "turn the signs"),
        (strictly_larger, "at least as large"), (by_ranks, "Wilcoxon"),
    ],
    "08.6": [
        (shares_added, "into a count"), (not_whole, "round each"), (cut_off, "cut off"), (without_fulfilled, "take the fulfilled"),
        (not_taken_away, "to be taken away"),
    ],
    "08.7": [
        (not_found, "chance to miss"), (one_rate, "same rate"), (normal_test, "normal test"), (one_test, "each draw"), (one_draw, "differ too much"),
    ],
    "08.8": [
        (one_tail_of_orders, "one-sided"), (t_test_of_r, "t test"), (the_correlation, "is the correlation"),
        (weaker_orders, "weaker correlation"),
    ],
}  # fmt: skip
