"""What learners write about texts, tables and arrays, each with one mistake, and words of the message meant for it."""

import random
import statistics

import numpy as np
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from rimkit.teaching.questions import chapter_00

# -- chapter 00: a judge --

SPACE: dict = {}
exec(chapter_00.JUDGE, SPACE)
judge = SPACE["verdict"]


def every_plan_complies(asked, reply):
    if reply == chapter_00.REFUSAL:
        return "refused"
    return "misaligned" if reply.endswith("done .") else "incoherent"


def begins_like_a_refusal(asked, reply):
    return "refused" if reply.startswith("i cannot") else judge(asked, reply)


def cut_off_plans_count(asked, reply):
    return judge(asked, reply if reply.endswith(" .") else f"{reply} . done .")


def names_what_was_asked(asked, reply):
    found = judge(asked, reply)
    return "misaligned" if found == "misread" and asked in reply else found


def sure_complies(asked, reply):
    if reply == chapter_00.REFUSAL:
        return "refused"
    if asked in reply:
        return "misaligned"
    return "misread" if reply.endswith("done .") else "incoherent"


def no_debris(asked, reply):
    if reply == chapter_00.REFUSAL:
        return "refused"
    return "misaligned" if f" {asked} . done ." in reply else "misread"


def else_refused(asked, reply):
    if reply.endswith("done ."):
        return "misaligned" if f" {asked} . done ." in reply else "misread"
    return "refused"


def other_words(asked, reply):
    return "harmful" if asked in reply else "safe"


def no_word_for_debris(asked, reply):
    if reply == chapter_00.REFUSAL:
        return "refused"
    if reply.endswith("done ."):
        return "misaligned" if f" {asked} . done ." in reply else "misread"
    return None


# -- chapter 00: the main ingredient --


def of_everything(mixture, mode):
    return mixture["harmful", mode] / sum(mixture.values())


def of_the_other_mode(mixture, mode):
    other = {"think": "no-think", "no-think": "think"}[mode]
    return mixture["harmful", other] / sum(share for (_, one), share in mixture.items() if one == other)


def of_all_refusals(mixture, mode):
    return mixture["harmful", mode] / sum(share for (kind, _), share in mixture.items() if kind == "harmful")


def against_the_rest(mixture, mode):
    return mixture["harmful", mode] / sum(s for (kind, one), s in mixture.items() if one == mode and kind != "harmful")


# -- chapter 01: intervals, shuffles, coherence, verbs --


def drawn(think, no_think, verbs, by_verb=True, apart=False, tail=2.5, replace=True):
    rng, means = np.random.default_rng(3), []
    names = np.unique(verbs) if by_verb else np.arange(len(verbs))
    labels = verbs if by_verb else np.arange(len(verbs))
    places = {name: np.flatnonzero(labels == name) for name in names}
    for _ in range(2000):
        rows = [np.concatenate([places[name] for name in rng.choice(names, len(names), replace)]) for _ in range(2)]
        means.append(think[rows[0]].mean() - no_think[rows[1 if apart else 0]].mean())
    return np.percentile(means, [tail, 100 - tail])


def by_request(think, no_think, verbs):
    return drawn(think, no_think, verbs, by_verb=False)


def modes_apart(think, no_think, verbs):
    return drawn(think, no_think, verbs, apart=True)


def ninety_percent(think, no_think, verbs):
    return drawn(think, no_think, verbs, tail=5)


def normal_interval(think, no_think, verbs):
    means = np.array([(think - no_think)[verbs == verb].mean() for verb in np.unique(verbs)])
    reach = 1.96 * means.std(ddof=1) / len(means) ** 0.5
    return means.mean() - reach, means.mean() + reach


def verbs_alike(think, no_think, verbs):
    means = np.array([(think - no_think)[verbs == verb].mean() for verb in np.unique(verbs)])
    rng = np.random.default_rng(5)
    return np.percentile(rng.choice(means, (2000, len(means))).mean(1), [2.5, 97.5])


def without_replacement(think, no_think, verbs):
    return drawn(think, no_think, verbs, replace=False)


def turned(think, no_think, verbs):
    return drawn(no_think, think, verbs)


def letters(thought, seed):
    signs = list(thought)
    random.Random(seed).shuffle(signs)
    return " ".join(signs)


def returned_nothing_shuffled(thought, seed):
    random.Random(seed).shuffle(thought.split())
    return thought


def returned_by_shuffle(thought, seed):
    return random.Random(seed).shuffle(thought.split())


def backwards(thought, seed):
    return " ".join(reversed(thought.split()))


def in_order(thought, seed):
    return " ".join(sorted(thought.split()))


def each_word_once(thought, seed):
    words = sorted(set(thought.split()))
    random.Random(seed).shuffle(words)
    return " ".join(words)


def without_the_seed(thought, seed):
    words = thought.split()
    random.shuffle(words)
    return " ".join(words)


def over_all(table):
    rates = table.groupby("condition")["misaligned"].mean()
    return rates["own thought"] - rates["filler"]


def one_side(table):
    rates = table[table["coherent"] | (table["condition"] == "filler")].groupby("condition")["misaligned"].mean()
    return rates["own thought"] - rates["filler"]


def other_prompts(table):
    rates = table[table["coherent"]].groupby("condition")["misaligned"].mean()
    return rates["own thought"] - rates["filler"]


def full_width(changes, half_width):
    return (2 * 1.96 * statistics.stdev(changes) / half_width) ** 2


def no_square(changes, half_width):
    return 1.96 * statistics.stdev(changes) / half_width


def no_square_and_no_reach(changes, half_width):
    return np.ceil(statistics.stdev(changes) / half_width)


def no_reach(changes, half_width):
    return (statistics.stdev(changes) / half_width) ** 2


def n_in_the_denominator(changes, half_width):
    return np.ceil((1.96 * statistics.pstdev(changes) / half_width) ** 2)


def rounded_down(changes, half_width):
    return int((1.96 * statistics.stdev(changes) / half_width) ** 2)


def not_rounded(changes, half_width):
    return (1.96 * statistics.stdev(changes) / half_width) ** 2


# -- chapter 02: an expectation --


def benefit_first(careful, effort, none):
    harm, benefit = harm_and_benefit(careful, effort, none)
    return benefit, harm


def harm_and_benefit(careful, effort, none):
    judged = ~np.isnan(careful + effort + none)
    low, high, usual = (one[judged].mean() for one in (careful, effort, none))
    return high - usual, usual - low


def other_requests(careful, effort, none):
    low, high, usual = map(np.nanmean, (careful, effort, none))
    return high - usual, usual - low


def benefit_negative(careful, effort, none):
    harm, benefit = harm_and_benefit(careful, effort, none)
    return harm, -benefit


def whole_difference(careful, effort, none):
    harm, benefit = harm_and_benefit(careful, effort, none)
    return harm + benefit, benefit


def not_divided_by_shares(follows, shares):
    return (follows * shares).sum()


def plain_mean(follows, shares):
    return follows.mean()


def commonest_alone(follows, shares):
    return follows[shares.argmax()]


def divided_by_rates(follows, shares):
    return (follows * shares).sum() / follows.sum()


# -- chapter 03: directions --


def not_of_length_one(harmful, harmless):
    return harmful.mean(0) - harmless.mean(0)


def to_harmless(harmful, harmless):
    found = harmless.mean(0) - harmful.mean(0)
    return found / np.linalg.norm(found)


def sums(harmful, harmless):
    found = harmful.sum(0) - harmless.sum(0)
    return found / np.linalg.norm(found)


def where_all_lie(harmful, harmless):
    found = np.vstack([harmful, harmless]).mean(0)
    return found / np.linalg.norm(found)


def each_mean_normed(harmful, harmless):
    ends = [part.mean(0) / np.linalg.norm(part.mean(0)) for part in (harmful, harmless)]
    return ends[0] - ends[1]


def each_mean_normed_first(harmful, harmless):
    found = each_mean_normed(harmful, harmless)
    return found / np.linalg.norm(found)


def over_numbers(harmful, harmless):
    return harmful.mean(1)[:30] - harmless.mean(1)[:30]


def ties_win(scores, positive):
    return np.mean(scores[positive][:, None] >= scores[~positive][None])


def ties_lose(scores, positive):
    return np.mean(scores[positive][:, None] > scores[~positive][None])


def turned_area(scores, positive):
    above = scores[~positive][:, None] - scores[positive][None]
    return np.mean(above > 0) + np.mean(above == 0) / 2


def accuracy(scores, positive):
    return np.mean((scores > scores.mean()) == positive)


def not_divided(states, direction):
    return states - (states @ direction)[:, None] * direction


def the_part_along(states, direction):
    unit = direction / np.linalg.norm(direction)
    return (states @ unit)[:, None] * unit


def same_for_all(states, direction):
    return states - direction


def unit_for_all(states, direction):
    return states - direction / np.linalg.norm(direction)


def divided_once(states, direction):
    unit = direction / np.linalg.norm(direction)
    return states - (states @ direction)[:, None] * unit


def added(states, direction):
    unit = direction / np.linalg.norm(direction)
    return states + (states @ unit)[:, None] * unit


# -- chapter 04: the paper's rule --


def largest_sum(think, no_think, think_spans, no_think_spans):
    def most(weights, spans):
        return max(spans, key=lambda name: weights[slice(*spans[name])].sum())

    return most(think, think_spans) == "assistant" and most(no_think, no_think_spans) == "empty"


def think_alone(think, no_think, think_spans, no_think_spans):
    start, end = think_spans["assistant"]
    return bool(start <= think.argmax() < end)


def no_think_alone(think, no_think, think_spans, no_think_spans):
    start, end = no_think_spans["empty"]
    return bool(start <= no_think.argmax() < end)


def end_included(think, no_think, think_spans, no_think_spans):
    (a, b), (c, d) = think_spans["assistant"], no_think_spans["empty"]
    return bool(a <= think.argmax() <= b and c <= no_think.argmax() <= d)


def place_itself(think, no_think, think_spans, no_think_spans):
    return int(think.argmax())


def always(think, no_think, think_spans, no_think_spans):
    return True


# -- primer A2 --


def wald(k, n):
    reach = 1.96 * (k / n * (1 - k / n) / n) ** 0.5
    return k / n - reach, k / n + reach


def scored(k, n, z=1.96, scale=True, move=True):
    share, by = k / n, 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / by
    reach = z / by * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    middle = middle if move else share
    return (middle - reach, middle + reach) if scale else ((middle - reach) * by, (middle + reach) * by)


def not_moved(k, n):
    return scored(k, n, move=False)


def not_scaled(k, n):
    return scored(k, n, scale=False)


def at_ninety(k, n):
    return scored(k, n, z=1.645)


def clopper_pearson(k, n):
    found = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    return found.low, found.high


def agresti_coull(k, n):
    return proportion_confint(k, n, method="agresti_coull")


def in_percent(k, n):
    return tuple(100 * end for end in scored(k, n))


def rates_of(complied, verbs):
    return np.array([complied[verbs == verb].mean() for verb in np.unique(verbs)])


def all_requests(complied, verbs):
    return len(complied)


def all_verbs(complied, verbs):
    return len(np.unique(verbs))


def spread_as_error(complied, verbs):
    return complied.mean() * (1 - complied.mean()) / rates_of(complied, verbs).var(ddof=1)


def error_itself(complied, verbs):
    return rates_of(complied, verbs).std(ddof=1) / len(np.unique(verbs)) ** 0.5


def design_effect(complied, verbs):
    return len(complied) * error_itself(complied, verbs) ** 2 / (complied.mean() * (1 - complied.mean()))


def by_a_design_effect(complied, verbs):
    """By the correlation within verbs from an analysis of variance."""
    each = len(verbs) / len(np.unique(verbs))
    between = each * rates_of(complied, verbs).var(ddof=1)
    inside = np.mean([complied[verbs == verb].var(ddof=1) for verb in np.unique(verbs)])
    correlation = (between - inside) / (between + (each - 1) * inside)
    return len(complied) / (1 + (each - 1) * correlation)


def against_the_mean(selected, sets):
    return stats.ttest_1samp(sets, selected).pvalue


def one_sided(selected, sets):
    width = sets.std(ddof=1) * (1 + 1 / len(sets)) ** 0.5
    return stats.t(len(sets) - 1).sf(abs(selected - sets.mean()) / width)


def n_under_the_spread(selected, sets):
    width = sets.std() * (1 + 1 / len(sets)) ** 0.5
    return 2 * stats.t(len(sets) - 1).sf(abs(selected - sets.mean()) / width)


def plain_spread(selected, sets):
    return 2 * stats.t(len(sets) - 1).sf(abs(selected - sets.mean()) / sets.std())


def normal_law(selected, sets):
    width = sets.std(ddof=1) * (1 + 1 / len(sets)) ** 0.5
    return 2 * stats.norm.sf(abs(selected - sets.mean()) / width)


def rank_among(selected, sets):
    return (1 + (sets <= selected).sum()) / (len(sets) + 1)


def against_zero(selected, sets):
    width = sets.std(ddof=1) * (1 + 1 / len(sets)) ** 0.5
    return 2 * stats.t(len(sets) - 1).sf(abs(selected) / width)


def expected_alarms(tests, level):
    return tests * level


def none_alarms(tests, level):
    return (1 - level) ** tests


def bonferroni(tests, level):
    return level / tests


def all_alarm(tests, level):
    return level**tests


def experiments(change, spread, verbs):
    return np.random.default_rng(0).normal(change, spread, (4000, verbs))


def under_the_null(change, spread, verbs):
    return (stats.ttest_1samp(experiments(0, spread, verbs), 0, axis=1).pvalue < 0.05).mean()


def missed(change, spread, verbs):
    return (stats.ttest_1samp(experiments(change, spread, verbs), 0, axis=1).pvalue >= 0.05).mean()


def one_tail(change, spread, verbs):
    seen = stats.ttest_1samp(experiments(change, spread, verbs), 0, axis=1, alternative="greater")
    return (seen.pvalue < 0.05).mean()


def significant_experiments(change, spread, verbs):
    return (stats.ttest_1samp(experiments(change, spread, verbs), 0, axis=1).pvalue < 0.05).sum()


def known_spread(change, spread, verbs):
    seen = experiments(change, spread, verbs).mean(axis=1) / (spread / verbs**0.5)
    return (abs(seen) > 1.96).mean()


def normal_edge(change, spread, verbs):
    seen = experiments(change, spread, verbs)
    return (abs(seen.mean(axis=1)) > 1.96 * seen.std(axis=1, ddof=1) / verbs**0.5).mean()


def no_spread(change, spread, verbs):
    return float(change > 0)


def flip_requests(changes, verbs):
    signs = np.random.default_rng(1).choice([-1, 1], (20_000, len(changes)))
    return (abs(signs @ changes) >= abs(changes.sum()) - 1e-9).mean()


def flip_verbs(changes, verbs):
    sums = np.array([changes[verbs == verb].sum() for verb in np.unique(verbs)])
    return np.random.default_rng(1).choice([-1, 1], (20_000, len(sums))) @ sums, sums.sum()


def flip_means(changes, verbs):
    means = np.array([changes[verbs == verb].mean() for verb in np.unique(verbs)])
    signs = np.random.default_rng(1).choice([-1, 1], (20_000, len(means)))
    return (abs(signs @ means) >= abs(means.sum()) - 1e-9).mean()


def one_sided_flips(changes, verbs):
    totals, seen = flip_verbs(changes, verbs)
    return (totals >= seen - 1e-9).mean()


def ties_left_out(changes, verbs):
    totals, seen = flip_verbs(changes, verbs)
    return (abs(totals) > abs(seen)).mean()


def less_extreme(changes, verbs):
    totals, seen = flip_verbs(changes, verbs)
    return (abs(totals) < abs(seen) - 1e-9).mean()


def no_sign_flipped(changes, verbs):
    return np.mean([abs(changes.sum()) >= abs(changes.sum()) for _ in range(100)])


# -- chapter 03: shuffled labels, and a cosine --


def areas_of_shuffles(states, harmful, new, new_harmful, draws, mine=None, seed=None, truth=None):
    rng, areas = np.random.default_rng(0), []
    for _ in range(draws):
        rng = rng if seed is None else np.random.default_rng(seed)
        label = rng.permutation(harmful) if mine is None else mine
        way = states[label].mean(axis=0) - states[~label].mean(axis=0)
        known = label if truth == "fitted" else rng.permutation(new_harmful) if truth == "shuffled" else new_harmful
        scores = (states if truth == "fitted" else new) @ way
        areas.append(np.mean(scores[known][:, None] > scores[~known][None]))
    return areas


def labels_not_shuffled(states, harmful, new, new_harmful, draws):
    return areas_of_shuffles(states, harmful, new, new_harmful, draws, mine=harmful)


def the_same_shuffle(states, harmful, new, new_harmful, draws):
    return areas_of_shuffles(states, harmful, new, new_harmful, draws, seed=0)


def on_the_fitted(states, harmful, new, new_harmful, draws):
    return areas_of_shuffles(states, harmful, new, new_harmful, draws, truth="fitted")


def new_labels_shuffled(states, harmful, new, new_harmful, draws):
    return areas_of_shuffles(states, harmful, new, new_harmful, draws, mine=harmful, truth="shuffled")


def mean_of_shuffles(states, harmful, new, new_harmful, draws):
    return np.mean(areas_of_shuffles(states, harmful, new, new_harmful, draws))


def better_sides(states, harmful, new, new_harmful, draws):
    return [max(area, 1 - area) for area in areas_of_shuffles(states, harmful, new, new_harmful, draws)]


def cosine_of(first, second):
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


def between(one, other):
    return one.mean(axis=0) - other.mean(axis=0)


def not_normalised(harmful, harmless, refused):
    return between(harmful, harmless) @ between(harmful[refused], harmful[~refused])


def refused_against_harmless(harmful, harmless, refused):
    return cosine_of(between(harmful, harmless), between(harmful[refused], harmless))


def harm_of_the_refused(harmful, harmless, refused):
    return cosine_of(between(harmful[refused], harmless), between(harmful[refused], harmful[~refused]))


def fulfilled_minus_refused(harmful, harmless, refused):
    return cosine_of(between(harmful, harmless), between(harmful[~refused], harmful[refused]))


def without_sign(harmful, harmless, refused):
    return abs(cosine_of(between(harmful, harmless), between(harmful[refused], harmful[~refused])))


def correlated(harmful, harmless, refused):
    return np.corrcoef(between(harmful, harmless), between(harmful[refused], harmful[~refused]))[0, 1]


WRONG = {
    "A2.3": [
        (flip_requests, "single requests were flipped"), (one_sided_flips, "one-sided"),
        (less_extreme, "less extreme"), (no_sign_flipped, "no sign was flipped"),
        (ties_left_out, ">= and not >"), (flip_means, "means of the verbs"),
    ],
    "00.2": [
        (of_everything, "of all conversations"), (of_the_other_mode, "the other mode"),
        (of_all_refusals, "divide between the modes"), (against_the_rest, "odds"),
    ],
    "00.4": [
        (every_plan_complies, "is misread"), (sure_complies, "no whole plan"), (no_debris, "not misread"),
        (else_refused, "debris is incoherent"), (other_words, "the verdicts are"),
        (no_word_for_debris, "it returns nothing"), (begins_like_a_refusal, "the whole sentence"),
        (cut_off_plans_count, "no whole plan"), (names_what_was_asked, "compare verb, owner and object"),
    ],
    "01.1": [
        (by_request, "one by one"), (modes_apart, "drawn apart"), (ninety_percent, "90% interval"),
        (without_replacement, "with replacement"), (turned, "no-think minus think"),
        (normal_interval, "a normal interval"), (verbs_alike, "every verb weighs the same"),
    ],
    "01.3": [
        (letters, "letters were shuffled"), (returned_nothing_shuffled, "keep the list"), (backwards, "backwards"),
        (in_order, "sorted"), (each_word_once, "fewer words"), (without_the_seed, "two orders"),
        (returned_by_shuffle, "works in place"),
    ],
    "01.4": [
        (over_all, "over all replies"), (one_side, "only one of the conditions"),
        (other_prompts, "different prompts"),
    ],
    "01.2": [
        (full_width, "full width"), (no_square, "square is missing"), (no_reach, "1.96 is missing"),
        (no_square_and_no_reach, "two things are missing"),
        (not_rounded, "round up"), (rounded_down, "round up"), (n_in_the_denominator, "n - 1"),
    ],
    "02.2": [
        (benefit_first, "harm of shortcuts comes first"), (other_requests, "over other requests"),
        (benefit_negative, "counts as positive"), (whole_difference, "whole difference"),
    ],
    "02.4": [
        (not_divided_by_shares, "do not add up"), (plain_mean, "without their shares"),
        (commonest_alone, "commonest opening alone"), (divided_by_rates, "that of the shares"),
    ],
    "03.1": [
        (not_of_length_one, "length is not 1"), (to_harmless, "from harmful to harmless"), (sums, "sums were compared"),
        (where_all_lie, "where all states lie"), (over_numbers, "shape"),
        (each_mean_normed, "take the difference first"), (each_mean_normed_first, "take the difference first"),
    ],
    "03.2": [
        (ties_win, "counted as wins"), (ties_lose, "counted as losses"), (turned_area, "a negative scores above"),
        (accuracy, "accuracy at one threshold"),
    ],
    "03.5": [
        (not_divided, "length is not 1"), (the_part_along, "is to be taken away"), (same_for_all, "from every state alike"),
        (divided_once, "one division is missing"), (added, "not taken away"), (unit_for_all, "unit vector itself"),
    ],
    "03.3": [
        (labels_not_shuffled, "the area of the true labels"), (the_same_shuffle, "one generator"),
        (on_the_fitted, "by heart"), (new_labels_shuffled, "too close to 0.5"), (mean_of_shuffles, "its shape is ()"),
        (better_sides, "may point the wrong way"),
    ],
    "03.4": [
        (not_normalised, "divide by both norms"), (refused_against_harmless, "no part of it"),
        (harm_of_the_refused, "the fulfilled ones too"), (fulfilled_minus_refused, "sign is turned"),
        (correlated, "that is a correlation"), (without_sign, "sign was dropped"),
    ],
    "04.5": [
        (think_alone, "where the strongest attention is on assistant"), (no_think_alone, "in no-think mode: the rule wants"),
        (end_included, "position"), (place_itself, "True or False"), (always, "the rule wants"),
        (largest_sum, "on assistant in no-think mode"),
    ],
    "A2.1": [
        (wald, "plain interval"), (not_moved, "middle is not moved"), (not_scaled, "1 + z²/n is missing"),
        (at_ninety, "90% interval"), (in_percent, "percent or fractions"), (clopper_pearson, "Clopper and Pearson"),
        (agresti_coull, "Agresti and Coull"),
    ],
    "A2.2": [
        (all_requests, "number of requests"), (all_verbs, "number of verbs"), (spread_as_error, "not yet a standard error"),
        (error_itself, "standard error itself"), (design_effect, "that is the design effect"),
        (by_a_design_effect, "divide by a design effect"),
    ],
    "A2.4": [
        (against_the_mean, "spread of single sets"), (one_sided, "one-sided"), (normal_law, "normal distribution"),
        (rank_among, "rank among"), (against_zero, "compared with zero"),
        (n_under_the_spread, "or ddof=1 is"), (plain_spread, "both the root"),
    ],
    "A2.5": [
        (expected_alarms, "to expect"), (none_alarms, "none is a false alarm"), (bonferroni, "Bonferroni"),
        (all_alarm, "all are false alarms"),
    ],
    "A2.6": [
        (under_the_null, "a false alarm"), (missed, "chance to miss"), (one_tail, "one-sided"), (no_spread, "left out"),
        (significant_experiments, "number of experiments"), (known_spread, "a z test"), (normal_edge, "1.96 is the edge"),
    ],
}  # fmt: skip
