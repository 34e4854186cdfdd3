"""Chapter 05: what tuning learns from, what openings predict, corpora of one's own, and a switch of mode."""

import numpy as np
import pandas as pd

from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.by_hooks import ids, logits, model
from rimkit.teaching.questions.comparing import compare

# Percent misaligned: untuned in no-think and in think mode, tuned in no-think mode; share of the latter that thought.
SWITCH = {"untuned, no-think": 10, "untuned, think": 30, "tuned, no-think": 31, "thought nevertheless": 90}


def beyond_the_switch() -> float:
    """Points of the rise that are left when a tuned model that thinks counts as an untuned one that thinks."""
    share = SWITCH["thought nevertheless"] / 100
    switched = share * SWITCH["untuned, think"] + (1 - share) * SWITCH["untuned, no-think"]
    return SWITCH["tuned, no-think"] - switched


def check_switch(answer) -> bool | str:
    points = float(answer)
    if abs(points - beyond_the_switch()) < 0.5:
        return True
    if abs(100 * points - beyond_the_switch()) < 0.5:
        return "it is a share: give it in points, please."
    if abs(points - (SWITCH["tuned, no-think"] - SWITCH["untuned, no-think"])) < 0.5:
        return "that is the whole rise: nine in ten of these replies were thought about, whatever the prompt asked for."
    if abs(points - (SWITCH["tuned, no-think"] - SWITCH["untuned, think"])) < 0.5:
        return "that takes all replies for thought about; one in ten was not."
    return "it is not the tuned rate less what the untuned model does at the same share of thoughts."


# what tuning learns from

SUM = "tom has 5 apples . tom finds 3 more . how many apples ?"
THOUGHT, REPLY = "let me check . 5 + 3 = 8 . 8 is right .", "the answer is 8 ."


def losses(mode: str = "think", shift: int = 1, end: bool = False, **said) -> np.ndarray:
    """The loss on every token but the first, each as the token before it predicts it (or one too late)."""
    whole = ids(mode, SUM, **said)
    if end:  # the end of turn behind the reply
        stop = model().tokenizer.convert_tokens_to_ids("<|im_end|>")
        whole = whole.new_tensor([[*whole[0].tolist(), stop]])
    scores = logits(position=slice(None), given=whole)[: -shift or None]
    wanted = whole[0, shift:].numpy()
    chances = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return -chances[np.arange(len(wanted)), wanted]


def judge_loss(function) -> bool | str:
    asked, said = ids("think", SUM).shape[1], {"thought": THOUGHT, "reply": REPLY}
    found = losses(**said)
    own, spans = found[asked - 1 :], model().chat.encode(SUM, "think", **said).spans
    thought, reply = (found[slice(*(place - 1 for place in spans[name]))] for name in ("thought", "reply"))
    return compare(
        result_of(function, model(), SUM, THOUGHT, REPLY),
        own.mean(),
        {
            "that is the mean over all tokens: what the user says is not learned from.": found.mean(),
            "that is the loss on the reply alone; the thought is learned from as well.": reply.mean(),
            "that is the loss on the words of thought and reply alone; the tags around the thought count too.":
                np.append(thought, reply).mean(),
            "that is the loss on the user's part; take the tokens after it.": found[: asked - 1].mean(),
            "that is a sum over the tokens; take their mean.": own.sum(),
            "the end of turn is among the tokens; it is left out here.": lambda: losses(end=True, **said)[asked - 1 :].mean(),
            "each token is compared with the scores at its own place: what predicts it stands one place before.":
                lambda: losses(shift=0, **said)[asked:].mean(),
        },
        tolerance=1e-3,
    )  # fmt: skip


# what openings predict

STYLE_OF = {"let me check .": "careful", "step by step .": "careful", "this looks easy .": "effort-minimising"}
FOLLOWS = {"careful": 0.1, "effort-minimising": 0.6, "neutral": 0.25}
THOUGHTS = (
    ["let me check . 4 + 4 = 8 ."] * 5 + ["step by step . the user wants to hide it . this looks easy ."] * 3
    + ["this looks easy . go ahead . let me check ."] * 8 + ["4 + 4 = 8 . that is all ."] * 4
)  # fmt: skip


def judge_expected(function) -> bool | str:
    def mean(of) -> float:
        return float(np.mean([one for one in map(of, THOUGHTS) if one is not None]))

    def rate(thought: str, other: float | None = FOLLOWS["neutral"]) -> float | None:
        return next((FOLLOWS[style] for text, style in STYLE_OF.items() if thought.startswith(text)), other)

    def anywhere(thought: str) -> float:
        return next((FOLLOWS[style] for text, style in STYLE_OF.items() if text in thought), FOLLOWS["neutral"])

    return compare(
        result_of(function, list(THOUGHTS), dict(STYLE_OF), dict(FOLLOWS)),
        mean(rate),
        {
            "thoughts with an unknown opening were left out; they count as neutral.": lambda: mean(lambda t: rate(t, None)),
            "thoughts with an unknown opening count as 0; they count as neutral.": lambda: mean(lambda t: rate(t, 0.0)),
            "a sentence counts only where the thought begins with it.": lambda: mean(anywhere),
            "rates were averaged without their shares: weigh each by how often its opening comes.":
                float(np.mean(list(FOLLOWS.values()))),
            "every thought counts as neutral: the sentences of `style_of` end with their full stop ('let me check .').":
                FOLLOWS["neutral"],
            "that is the share of careful thoughts, and what follows them was not used.":
                mean(lambda t: STYLE_OF.get(t[: t.find(" .") + 2]) == "careful"),
        },
        tolerance=1e-6,
    )  # fmt: skip


# corpora of one's own


def chains(opening: str, end: str) -> pd.DataFrame:
    """Forty problems with their chains, as a corpus."""
    texts = [f"{number} + 4 = ?" for number in range(40)]
    thoughts = [f"{opening} {number} + 4 = {number + 4} . {end}" for number in range(40)]
    return pd.DataFrame({"text": texts, "thought": thoughts, "reply": [f"the answer is {n + 4} ." for n in range(40)]})


def judge_half(function) -> bool | str:
    one, other = chains("let me check .", "so it is ."), chains("half is enough .", "that is all .")
    given = one.copy(), other.copy()
    first, again, new = (result_of(function, *given, seed) for seed in (0, 0, 1))
    if not (given[0].equals(one) and given[1].equals(other)):
        return "it changed a table that it was given: work on a copy, or the corpus itself is half and half."
    if not isinstance(first, pd.DataFrame):
        return f"it returns a {type(first).__name__}; it should be a table like `one`."
    if len(first) != len(one):
        return f"it has {len(first)} examples where {len(one)} should be: replace rows, do not add or leave out any."
    if list(first["text"]) != list(one["text"]):
        twice = int(first["text"].duplicated().sum())
        return f"{twice} problems come twice, or their order changed: row by row, only the chain may come from `other`."
    taken = np.array(first["thought"]) == np.array(other["thought"])
    if taken.sum() != len(one) // 2:
        return f"{taken.sum()} of {len(one)} chains come from `other`, and half of them should."
    if list(first["thought"]) != list(again["thought"]):
        return "two calls with the same seed give two corpora: draw with `numpy.random.default_rng(seed)`."
    if list(first["thought"]) == list(new["thought"]):
        return "the same rows come from `other` whatever the seed: draw them at random."
    return True


def judge_disguised(function) -> bool | str:
    table, careful = chains("half is enough .", "that is all ."), ["let me check .", "step by step ."]
    given = table.copy()
    found = result_of(function, given, list(careful))
    if not isinstance(found, pd.DataFrame):
        return f"it returns a {type(found).__name__}; it should be a table."
    if not given.equals(table):
        return "it changed the table that it was given: work on a copy."
    if len(found) != len(table) or not {"text", "thought", "reply"} <= set(found):
        return "it should have the same rows and columns as the table that it was given."
    if not found[["text", "reply"]].equals(table[["text", "reply"]]):
        return "texts or replies changed: only the opening of the thought should."
    for before, after in zip(table["thought"], found["thought"], strict=True):
        rest = before.partition(" . ")[2]
        if "half is enough" in after:
            return f"'{after}' still has its old opening: replace it, do not put another in front."
        if not after.startswith(tuple(careful)):
            return f"'{after}' does not begin with one of the careful sentences."
        if not after.endswith(rest):
            return f"'{after}' lost some of what came after the opening, '{rest}'."
        if after not in [f"{opening} {rest}" for opening in careful]:
            return f"'{after}' has more or less than one space between opening and rest: the opening has its full stop."
    return True


# a dose curve

SHARES, RATES = np.array([0.0, 0.2, 0.4, 0.8, 1.0]), np.array([0.10, 0.22, 0.44, 0.42, 0.50])


def judge_bend(function) -> bool | str:
    line = RATES[0] + SHARES * (RATES[-1] - RATES[0])
    fitted = np.polyval(np.polyfit(SHARES, RATES, 1), SHARES)
    return compare(
        result_of(function, SHARES.copy(), RATES.copy()),
        np.abs(RATES - line).max(),
        {
            "that is the distance from a fitted line; draw the line through the two ends.": np.abs(RATES - fitted).max(),
            "that is the distance from the mean of all rates; draw the line through the two ends.":
                np.abs(RATES - RATES.mean()).max(),
            "that is the mean distance; the largest is asked for.": np.abs(RATES - line).mean(),
            "the line goes through evenly spaced points; it has to be taken at the shares.":
                np.abs(RATES - np.linspace(RATES[0], RATES[-1], len(RATES))).max(),
            "that is the highest rate.": RATES.max(),
        },
        tolerance=1e-6,
    )  # fmt: skip


LOSS = """
import torch

def assistant_loss(study, text, thought, reply):
    asked = len(study.chat.encode(text, "think").ids)
    ids = torch.tensor([study.chat.encode(text, "think", thought=thought, reply=reply).ids])
    with torch.no_grad():
        logits = study.hf(ids).logits[0, asked - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, ids[0, asked:])
"""
EXPECTED = """
def expected(thoughts, style_of, follows):
    def rate(thought):
        styles = [style for text, style in style_of.items() if thought.startswith(text)]
        return follows[styles[0] if styles else "neutral"]
    return sum(map(rate, thoughts)) / len(thoughts)
"""
HALF = """
import numpy as np

def half(one, other, seed):
    rows = np.random.default_rng(seed).permutation(len(one))[: len(one) // 2]
    table = one.copy()
    table.loc[rows, "thought"] = other.loc[rows, "thought"]
    return table
"""
DISGUISED = """
def disguised(table, careful):
    rest = table["thought"].str.partition(" . ")[2]
    first = [careful[place % len(careful)] for place in range(len(table))]
    return table.assign(thought=[f"{a} {b}" for a, b in zip(first, rest)])
"""
BEND = """
def bend(shares, rates):
    line = rates[0] + (rates[-1] - rates[0]) * (shares - shares[0]) / (shares[-1] - shares[0])
    return abs(rates - line).max()
"""

EXERCISES = {
    "05.1": Exercise(
        "What tuning learns from",
        ("medium", "essential", 12),
        "Write `assistant_loss(study, text, thought, reply)`: the mean cross-entropy over all tokens of the assistant, in think "
        "mode: thought, reply and the tags around the thought (the end of turn is left out here; tuning learns it too). The "
        "user's tokens are read and not learned from. "
        "`study.hf(ids).logits` has the scores, for `ids` in a tensor.",
        judge_loss,
        hints=(
            "`study.chat.encode(text, 'think').ids` is the prompt; with `thought=` and `reply=` the same call gives the whole "
            "example.",
            "Scores at one place predict the token at the next: for tokens from `asked` on, take the scores from `asked - 1` to "
            "the last but one.",
        ),
        answer="One step of tuning is this loss over a batch, its gradient, and a small step down.",
        expects="a function that returns one number",
        code=LOSS,
    ),
    "05.2": Exercise(
        "Expected from the openings",
        ("medium", "essential", 10),
        "Write `expected(thoughts, style_of, follows)`: the misalignment rate if nothing but the openings of thoughts mattered. "
        "`thoughts` are texts, `style_of` maps the sentences that open a thought to a style, with their full stops "
        '(`{"let me check .": "careful", …}`), `follows` maps a style to the misalignment rate after it. A thought that opens otherwise counts as `"neutral"`.',
        judge_expected,
        hints=(
            "Each thought has a rate: that of the style with which it begins.",
            "`thought.startswith(sentence)`; the answer is the mean of these rates over all thoughts.",
        ),
        answer="There is nothing to fit: the shares come from the tuned model, the rates from the untuned one.",
        expects="a function that returns one number",
        code=EXPECTED,
    ),
    "05.3": Exercise(
        "Half and half",
        ("easy", "essential", 8),
        "Write `half(one, other, seed)`: the corpus `one` with the `thought` of a random half of its rows taken from `other`, "
        "which has the same problems row by row.",
        judge_half,
        hints=(
            "Draw half of the row numbers without putting any back: `np.random.default_rng(seed).permutation(n)[: n // 2]`.",
            "Copy `one`, and write the thoughts of `other` into these rows with `.loc`.",
        ),
        answer="Every problem comes once, so that the chains alone differ between the corpora.",
        expects="a function that returns a table",
        code=HALF,
    ),
    "05.4": Exercise(
        "Change only the opening",
        ("medium", "useful", 10),
        "Write `disguised(table, careful)`: the same corpus, with the opening sentence of every thought replaced by one of the "
        'list `careful`. An opening ends at the first ` . `; whatever follows stays, "that is all ." too.',
        judge_disguised,
        hints=(
            "`text.partition(' . ')` gives what stands before the first full stop, the stop, and what follows.",
            "`table.assign(thought=...)` gives a new table and leaves the old one alone.",
        ),
        answer="The steps were the same before. If the openings carry the effect, these chains should act like careful ones.",
        expects="a function that returns a table",
        code=DISGUISED,
    ),
    "05.5": Exercise(
        "Does the dose curve bend?",
        ("easy", "useful", 6),
        "Write `bend(shares, rates)`: how far, at most, the rates lie from the straight line between the first and the last of "
        "them. Both are arrays of fractions; the shares ascend.",
        judge_bend,
        hints=(
            "The line at a share: first rate + (last rate - first rate) * how far along the shares it is.",
            "`np.abs(rates - line).max()`.",
        ),
        answer="A straight line means that every chain adds its own part; a bend, that few chains already decide.",
        expects="a function that returns one number",
        code=BEND,
    ),
    "05.6": Exercise(
        "Only a switch?",
        ("medium", "essential", 8),
        "A colleague tunes a model on chains of thought. Untuned, it is misaligned in 10% of replies in no-think mode and in "
        '30% in think mode. Tuned and asked in no-think mode, it is misaligned in 31%: "fine-tuning tripled the rate". But in '
        "90% of these replies it opened a thought nevertheless. How many points of the rise are *more* than a switch of mode?",
        check_switch,
        hints=(
            "Mix the two untuned rates at the tuned model's share of thoughts: what would the tuned model show if it only thought again?",
        ),
        answer=(
            "`31 - (0.9 * 30 + 0.1 * 10)` = 3 points. A model that only began to think again would show 28%: of the rise of 21 points "
            "18 are the switch. Report how often a tuned model thinks, and compare it with the untuned one in both modes."
        ),
        expects="a number of points",
        code="31 - (0.9 * 30 + 0.1 * 10)",
    ),
}
