"""Chapter 02: what the paper's injected thoughts show; how likely an opening is, and what follows from it."""

import numpy as np

from rimkit.teaching.exercises import Exercise, compare, result_of
from rimkit.teaching.questions.by_hooks import REQUEST, ids, logits, model


def check_statement(answer) -> bool | str:
    replies = {
        "a": "10.00% is less than half of the 22.94% of thinking as usual, and below the 15.39% without thinking.",
        "b": True,
        "c": "8.67% and 10.00% are 26 and 30 of 300 requests: four requests apart, without an interval.",
        "d": "both injected rates lie more than ten points below thinking as usual.",
    }
    known = replies.get(str(answer).strip().strip(".").lower())
    return f"'{answer}' is not one of a, b, c, d." if known is None else known


# how likely an opening is

OPENING = "let me check ."


def chances(mode: str = "think", first: int = -1) -> np.ndarray:
    """The chance of each token of the opening, given those before it."""
    tokens = model().tokenizer(OPENING, add_special_tokens=False)["input_ids"]
    prompt, found = ids(mode), []
    for place, token in enumerate(tokens):
        said = np.concatenate([prompt[0], tokens[:place]])
        scores = logits(position=first, given=prompt.new_tensor(said[None]))
        shares = np.exp(scores - scores.max())
        found.append(shares[token] / shares.sum())
    return np.array(found)


def judge_chance(function) -> bool | str:
    tokens = model().tokenizer(OPENING, add_special_tokens=False)["input_ids"]
    whole = ids("think").new_tensor([[*ids("think")[0].tolist(), *tokens]])
    raw = sum(float(logits(position=place - len(tokens) - 1, given=whole)[token]) for place, token in enumerate(tokens))
    found = chances()
    return compare(
        result_of(function, model(), REQUEST, OPENING),
        found.prod(),
        {
            "that is the chance of its first word alone: multiply those of all its words.": found[0],
            "that is the mean of the words' chances; all of them have to come: multiply.": found.mean(),
            "that is a sum of log probabilities: take exp of it.": np.log(found).sum(),
            "these are logits: take softmax over the tokens first.": raw,
            "that is no-think mode, in which no thought is opened.": lambda: chances("no-think").prod(),
            "each word is read one place too early or too late: the chance of a token stands at the position before it.":
                lambda: chances(first=-2).prod(),
        },
        tolerance=1e-2,
    )  # fmt: skip


# what a mixture of openings is expected to give

FOLLOWS, BEFORE, AFTER = (0.16, 0.45, 0.70), (0.5, 0.3, 0.2), (0.1, 0.3, 0.6)


def judge_expected(function) -> bool | str:
    follows, before, after = (np.array(part) for part in (FOLLOWS, BEFORE, AFTER))
    return compare(
        result_of(function, follows, before, after),
        float(follows @ (after - before)),
        {
            "that is the rate expected after tuning; the change is from before to after.": float(follows @ after),
            "that is the rate before tuning.": float(follows @ before),
            "rates were averaged without their shares: weigh each by how often the opening comes.": float(follows.mean()),
            "shares were compared, and rates not used: multiply each share by what follows the opening.":
                float(np.abs(after - before).sum()),
            "that is the change of one opening alone; add up all of them.": float(follows[-1] * (after - before)[-1]),
        },
        tolerance=1e-6,
    )  # fmt: skip


CHANCE = """
import torch

def chance(study, request, opening):
    prompt = study.chat.encode(request, "think").ids
    said = study.tokenizer(opening, add_special_tokens=False)["input_ids"]
    with torch.no_grad(), study.nn.trace(torch.tensor([prompt + said])):
        logits = study.nn.output.logits[0].save()
    shares = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return shares[range(len(said)), said].sum().exp()
"""
EXPECTED = """
def expected_change(follows, before, after):
    return sum(rate * (late - early) for rate, early, late in zip(follows, before, after))
"""

EXERCISES = {
    "02.1": Exercise(
        "The missing baseline",
        ("medium", "essential", 10),
        "Which statement do the paper's rates for Qwen3-4B support?",
        check_statement,
        hints=("Put the four numbers in order of size before you read the statements again.",),
        answer=(
            "`'b'`: the rates are 8.67 < 10.00 < 15.39 < 22.94. The two injected rates are 26 and 30 of 300 requests and cannot be "
            "ranked; both lie well below thinking as usual. A comparison of two injections cannot show that the worse one is "
            "worse than nothing."
        ),
        expects="a letter from a to d",
        code="'b'",
    ),
    "02.2": Exercise(
        "How likely is an opening?",
        ("hard", "essential", 12),
        "Write `chance(study, request, opening)`: the probability that the model's own thought begins with the words "
        "`opening`, in think mode. No sampling: read it from the logits.",
        judge_chance,
        hints=(
            "Put the opening's token ids behind those of the think prompt and run the model once. The probability of a token "
            "stands in the softmax at the position before it.",
            "Multiply over the opening's tokens, or add their log probabilities and take `exp`.",
        ),
        answer="What tuning changes first is such a number, long before any reply looks different.",
        expects="a function that returns a probability",
        code=CHANCE,
    ),
    "02.3": Exercise(
        "What if only the openings change?",
        ("easy", "essential", 5),
        "Write `expected_change(follows, before, after)`: by how much misalignment changes if the rate after each opening "
        "stays as it is (`follows`) and only the openings' shares move from `before` to `after`. All are fractions, one per "
        "opening.",
        judge_expected,
        hints=(
            "Expected rate: each opening's share times what follows it, summed.",
            "Do it with both lists of shares.",
        ),
        answer="Compare it with what tuning does: what is left over is a change of what follows an opening.",
        expects="a function that returns one number",
        code=EXPECTED,
    ),
}
