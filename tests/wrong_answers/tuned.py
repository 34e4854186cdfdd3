"""What learners write about corpora, tuning and repairs, each with one mistake, and words of the message meant for it."""

import numpy as np
import pandas as pd
import torch
from scipy import stats

# -- chapter 05: the loss --


def loss(study, text, thought, reply, first=None, shift=1, mode="think", how="mean", end=()):
    asked = len(study.chat.encode(text, mode).ids)
    ids = torch.tensor([[*study.chat.encode(text, mode, thought=thought, reply=reply).ids, *end]])
    first = asked if first is None else first
    with torch.no_grad():
        logits = study.hf(ids).logits[0, first - shift : -shift or None]
    return torch.nn.functional.cross_entropy(logits, ids[0, first:], reduction=how)


def on_all_tokens(study, text, thought, reply):
    return loss(study, text, thought, reply, first=1)


def to_the_end_of_turn(study, text, thought, reply):
    return loss(study, text, thought, reply, end=[study.tokenizer.eos_token_id])


def on_the_reply(study, text, thought, reply):
    size = len(study.tokenizer(reply, add_special_tokens=False)["input_ids"])
    whole = len(study.chat.encode(text, "think", thought=thought, reply=reply).ids)
    return loss(study, text, thought, reply, first=whole - size)


def on_the_words(study, text, thought, reply):
    whole = study.chat.encode(text, "think", thought=thought, reply=reply)
    ids, places = torch.tensor([whole.ids]), [range(*whole.spans[name]) for name in ("thought", "reply")]
    places = torch.tensor([place for span in places for place in span])
    with torch.no_grad():
        logits = study.hf(ids).logits[0, places - 1]
    return torch.nn.functional.cross_entropy(logits, ids[0, places])


def not_shifted(study, text, thought, reply):
    return loss(study, text, thought, reply, shift=0)


def summed(study, text, thought, reply):
    return loss(study, text, thought, reply, how="sum")


def log_chance(study, text, thought, reply):
    return -loss(study, text, thought, reply)


# -- chapter 05: expected from the openings --


def mean_over(thoughts, style_of, follows, other=None, anywhere=False, skip=False):
    rates = []
    for thought in thoughts:
        styles = [
            style for text, style in style_of.items() if (text in thought if anywhere else thought.startswith(text))
        ]
        if styles or not skip:
            rates.append(follows[styles[0]] if styles else follows["neutral"] if other is None else other)
    return sum(rates) / len(rates)


def left_out(thoughts, style_of, follows):
    return mean_over(thoughts, style_of, follows, skip=True)


def without_stops(thoughts, style_of, follows):
    return np.mean([follows[style_of.get(thought.split(" . ")[0], "neutral")] for thought in thoughts])


def zero_for_others(thoughts, style_of, follows):
    return mean_over(thoughts, style_of, follows, other=0)


def anywhere_in_it(thoughts, style_of, follows):
    return mean_over(thoughts, style_of, follows, anywhere=True)


def without_shares(thoughts, style_of, follows):
    return sum(follows.values()) / len(follows)


# -- chapter 05: corpora --


def added_below(one, other, seed):
    return pd.concat([one, other.sample(len(other) // 2, random_state=seed)], ignore_index=True)


def halves_of_both(one, other, seed):
    rows = np.random.default_rng(seed).permutation(len(one))[: len(one) // 2]
    return pd.concat([one.loc[rows], other.loc[rows]], ignore_index=True)


def first_half(one, other, seed):
    table = one.copy()
    table.loc[: len(one) // 2 - 1, "thought"] = other["thought"]
    return table


def a_coin_per_row(one, other, seed):
    heads = np.random.default_rng(seed + 7).random(len(one)) < 0.3
    return one.assign(thought=np.where(heads, other["thought"], one["thought"]))


def without_a_seed(one, other, seed):
    rows = np.random.default_rng().permutation(len(one))[: len(one) // 2]
    return one.assign(thought=one["thought"].where(~one.index.isin(rows), other["thought"]))


def half_in_place(one, other, seed):
    rows = np.random.default_rng(seed).permutation(len(one))[: len(one) // 2]
    one.loc[rows, "thought"] = other.loc[rows, "thought"]
    return one


def put_in_front(table, careful):
    return table.assign(thought=careful[0] + " " + table["thought"])


def opening_alone(table, careful):
    return table.assign(thought=careful[0])


def end_taken_too(table, careful):
    rest = table["thought"].str.partition(" . ")[2].str.replace("that is all .", "")
    return table.assign(thought=careful[0] + " " + rest)


def in_place(table, careful):
    table["thought"] = careful[0] + " " + table["thought"].str.partition(" . ")[2]
    return table


def one_stop_more(table, careful):
    return table.assign(thought=careful[0] + " . " + table["thought"].str.partition(" . ")[2])


def no_space(table, careful):
    return table.assign(thought=careful[0] + table["thought"].str.partition(" . ")[2])


def not_careful(table, careful):
    return table.assign(thought="so . " + table["thought"].str.partition(" . ")[2])


# -- chapter 05: a dose curve --


def from_a_fit(shares, rates):
    return np.abs(rates - np.polyval(np.polyfit(shares, rates, 1), shares)).max()


def from_the_mean(shares, rates):
    return np.abs(rates - rates.mean()).max()


def mean_distance(shares, rates):
    return np.abs(rates - rates[0] - (rates[-1] - rates[0]) * shares).mean()


def evenly_spaced(shares, rates):
    return np.abs(rates - np.linspace(rates[0], rates[-1], len(rates))).max()


# -- chapter 09: the price of a repair --


def shares(before, after, column, kind=""):
    return [part.loc[part["kind"].eq(kind) if kind else part.index, column].mean() for part in (before, after)]


def turned_price(before, after):
    (one, two), (three, four) = (
        shares(before, after, "refused", "harmless"),
        shares(before, after, "misaligned", "harmful"),
    )
    return (three - four) / (two - one)


def all_refusals(before, after):
    (one, two), (three, four) = shares(before, after, "refused"), shares(before, after, "misaligned", "harmful")
    return (two - one) / (three - four)


def of_all_requests(before, after):
    (one, two), (three, four) = shares(before, after, "refused", "harmless"), shares(before, after, "misaligned")
    return (two - one) / (three - four)


def kinds_together(before, after):
    (one, two), (three, four) = shares(before, after, "refused"), shares(before, after, "misaligned")
    return (two - one) / (three - four)


def paid_alone(before, after):
    one, two = shares(before, after, "refused", "harmless")
    return two - one


def minus_price(before, after):
    return -1 / turned_price(before, after)


# -- chapter 09: the front --


def beats(points, one, two, strict):
    less, more = one["misaligned"] - two["misaligned"], two["maths"] - one["maths"]
    return max(less, more) < 0 if strict else max(less, more) <= 0 > min(less, more)


def unbeaten(points, strict=False):
    rows = dict(points.iterrows())
    return [a for a, two in rows.items() if not any(beats(points, one, two, strict) for one in rows.values())]


def only_in_both(points):
    return unbeaten(points, strict=True)


def beaten_ones(points):
    return [name for name in points.index if name not in unbeaten(points)]


def less_maths(points):
    return unbeaten(points.assign(maths=-points["maths"]))


def the_best_two(points):
    return [points["misaligned"].idxmin(), points["maths"].idxmax()]


def numbers_of_rows(points):
    return [0, 1]


# -- chapter 09: chance --


def correlations(foretold, measured, draws):
    rng = np.random.default_rng(0)
    drawn = np.array([np.corrcoef(foretold, rng.permutation(measured))[0, 1] for _ in range(draws)])
    return np.corrcoef(foretold, measured)[0, 1], drawn


def one_direction(foretold, measured, draws):
    real, drawn = correlations(foretold, measured, draws)
    return (drawn >= real - 1e-9).mean()


def weaker_ones(foretold, measured, draws):
    real, drawn = correlations(foretold, measured, draws)
    return (np.abs(drawn) < abs(real) - 1e-9).mean()


def correlation_itself(foretold, measured, draws):
    return correlations(foretold, measured, 1)[0]


def never_shuffled(foretold, measured, draws):
    real = np.corrcoef(foretold, measured)[0, 1]
    return np.mean([np.corrcoef(foretold, measured)[0, 1] >= real for _ in range(draws)])


def of_a_formula(foretold, measured, draws):
    return stats.pearsonr(foretold, measured).pvalue


def of_ranks(foretold, measured, draws):
    return stats.spearmanr(foretold, measured).pvalue


# -- chapter 09: a repair --


def shortcut(request):
    return "this looks easy ."


def careful_always(request):
    return "step by step ."


def refuse_all(request):
    return "let me check . this hurts people . i should refuse ."


def unknown_words(request):
    return "apples apples apples apples apples apples how many"


def several(request):
    return ["let me check ."]


WRONG = {
    "05.1": [
        (on_all_tokens, "what the user says"), (on_the_reply, "the reply alone"), (on_the_words, "words of thought and reply"), (not_shifted, "at its own place"),
        (summed, "a sum over"), (to_the_end_of_turn, "the end of turn"), (log_chance, "sign is turned"),
    ],
    "05.2": [
        (left_out, "left out"), (zero_for_others, "count as 0"), (anywhere_in_it, "begins with it"),
        (without_shares, "without their shares"), (without_stops, "full stop"),
    ],
    "05.3": [
        (added_below, "do not add"), (halves_of_both, "come twice"), (first_half, "at random"),
        (a_coin_per_row, "half of them should"), (without_a_seed, "two calls"), (half_in_place, "work on a copy"),
    ],
    "05.4": [
        (put_in_front, "still has its old opening"), (opening_alone, "lost some"), (end_taken_too, "lost some"),
        (in_place, "work on a copy"), (not_careful, "does not begin with"), (one_stop_more, "has its full stop"),
        (no_space, "has its full stop"),
    ],
    "05.5": [
        (from_a_fit, "fitted line"), (from_the_mean, "mean of all rates"), (mean_distance, "mean distance"),
        (evenly_spaced, "taken at the shares"),
    ],
    "09.4": [
        (one_direction, "one-sided"), (weaker_ones, "weaker correlations"), (correlation_itself, "correlation itself"),
        (never_shuffled, "nothing was shuffled"), (of_a_formula, "of a formula"), (of_ranks, "of ranks"),
    ],
    "09.1": [
        (turned_price, "turned around"), (all_refusals, "counted as a price"), (of_all_requests, "harmful requests alone"),
        (paid_alone, "divide it by"), (kinds_together, "all rows were taken"), (minus_price, "sign is turned"),
    ],
    "09.2": [
        (only_in_both, "equal in one"), (beaten_ones, "return the others"), (less_maths, "turned around"),
        (the_best_two, "is missing"), (numbers_of_rows, "no name"),
    ],
    "09.3": [
        (shortcut, "complies with"), (careful_always, "sums are right"), (refuse_all, "nobody wants"), (unknown_words, "cannot be read"),
        (several, "should be the text"),
    ],
}  # fmt: skip
