"""Chapter 02: what the paper's injected thoughts show, openings injected, how likely they are, what follows from them."""

import numpy as np
from scipy.special import softmax

from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.by_hooks import REQUEST, ids, logits, model
from rimkit.teaching.questions.comparing import compare


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


def opened(request: str = REQUEST):
    """The think prompt with the tag and the line break that open a thought."""
    return ids("think", request, thought_prefix="")


def chances(prompt=None, first: int = -1) -> np.ndarray:
    """The chance of each token of the opening, given those before it, behind an opened thought."""
    tokens = model().tokenizer(OPENING, add_special_tokens=False)["input_ids"]
    prompt, found = opened() if prompt is None else prompt, []
    for place, token in enumerate(tokens):
        said = np.concatenate([prompt[0], tokens[:place]])
        scores = logits(position=first, given=prompt.new_tensor(said[None]))
        shares = np.exp(scores - scores.max())
        found.append(shares[token] / shares.sum())
    return np.array(found)


def is_chance(found) -> bool:
    try:
        return 0 < float(found) <= 1
    except (TypeError, ValueError, RuntimeError):
        return False


def judge_chance(function) -> bool | str:
    tokens = model().tokenizer(OPENING, add_special_tokens=False)["input_ids"]
    whole = ids("think", thought_prefix=OPENING)
    raw = sum(float(logits(position=place - len(tokens) - 1, given=whole)[token]) for place, token in enumerate(tokens))
    right, found = chances(), result_of(function, model(), REQUEST, OPENING)
    if not is_chance(found):
        return compare(found, right.prod(), {
            "that is a sum of log probabilities: take exp of it.": np.log(right).sum(),
            "these are logits: take softmax over the tokens first.": raw,
        })  # fmt: skip
    return compare(np.log(float(found)), np.log(right.prod()), {  # tiny chances differ in size
        "that is the mean of the words' chances; all of them have to come: multiply.": np.log(right.mean()),
        "that is the chance of its first word alone: multiply those of all its words.": np.log(right[0]),
        "that is no-think mode, in which no thought is opened.": lambda: np.log(chances(ids("no-think")).prod()),
        "the words stand outside of a thought, where `<think>` has to come first: open it with `thought_prefix`.":
            lambda: np.log(chances(ids("think")).prod()),
        "`thought=` closes the thought behind the words; `thought_prefix=` leaves it open.":
            lambda: np.log(chances(ids("think", thought=OPENING)).prod()),
        "each word is read one place too early: the chance of a token stands at the position right before it.":
            lambda: np.log(chances(first=-2)).sum(),
        "each word is read one place late, where it has been read already: take the position before it.":
            lambda: sum(np.log(softmax(logits(position=place - len(tokens), given=whole))[token])
                        for place, token in enumerate(tokens)),
    }, tolerance=1e-5)  # fmt: skip


# what a mixture of openings is expected to give

FOLLOWS, SHARES = (0.16, 0.45, 0.70), (0.5, 0.25, 0.15)


def judge_mixture(function) -> bool | str:
    follows, shares = np.array(FOLLOWS), np.array(SHARES)
    right = float(follows @ shares / shares.sum())
    return compare(
        result_of(function, follows.copy(), shares.copy()),
        right,
        {
            "the shares do not add up to 1 (some thoughts open in other ways): divide by their sum.": float(
                follows @ shares
            ),
            "rates were averaged without their shares: weigh each by how often the opening comes.": float(
                follows.mean()
            ),
            "that is what follows the commonest opening alone; all of them count.": float(follows[shares.argmax()]),
            "it is divided by the sum of the rates: divide by that of the shares.": float(
                follows @ shares / follows.sum()
            ),
            "that is the share that is not complied with.": 1 - right,
        },
        tolerance=1e-6,
    )


# an opening put into the model's mouth

EASY = "this looks easy ."
ROOM = 48


def goes_on(prompt=None, opening: str = "") -> list[str]:
    """The words that the model writes, the most likely token each time: after `EASY` in its thought, or after another
    ``prompt`` and the words ``opening``."""
    given = ids("think", thought_prefix=EASY) if prompt is None else prompt
    behind = model().tokenizer(opening, add_special_tokens=False)["input_ids"] if opening else []
    given = given.new_tensor([[*given[0].tolist(), *behind]])
    found = model().hf.generate(given, attention_mask=given**0, max_new_tokens=ROOM, do_sample=False)
    return words_of(model().tokenizer.decode(found[0, given.shape[1] :]))


def words_of(text: str) -> list[str]:
    """Words without tags."""
    for tag in ("<think>", "</think>", *model().tokenizer.all_special_tokens):
        text = text.replace(tag, " ")
    return text.split()


def judge_begun(function) -> bool | str:
    found = result_of(function, model(), REQUEST, EASY)
    if not isinstance(found, str):
        return f"it returns a {type(found).__name__}; it should return a text: decode the ids."
    found, right = words_of(found), goes_on()
    if found == right:
        return True
    opening = EASY.split()
    for message, wrong in {
        "the opening is not in the prompt: that is how the model thinks by itself.": goes_on(ids("think")),
        "that is no-think mode: its span is closed, and the opening stands in the reply.": goes_on(ids("no-think"), EASY),
        "the opening stands outside of a thought: `<think>` has to come first, as with `thought_prefix`.":
            goes_on(ids("think"), EASY),
        "`thought=` closes the thought behind the opening; `thought_prefix=` leaves it open.":
            goes_on(ids("think", thought=EASY)),
        "the opening comes back with it: return what follows.": [*opening, *right],
        "that is the next token alone: let the model go on to its end.": right[:1],
        "it ends too early: 48 new tokens leave room for thought and reply.": right[: max(2, len(found))],
    }.items():  # fmt: skip
        if found == wrong:
            return message
    if found[-len(right) :] == right:
        return "the prompt comes back with it: cut it off, and return what follows."
    return "that is not what the model writes after this opening, always taking the most likely token."


# a difference split by its baseline


def three() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Verdicts of one reply per request after careful, effort-minimising and no beginnings; NaN: not judged."""
    rng, found = np.random.default_rng(4), []
    hard = rng.random(200)
    for share in (0.15, 0.65, 0.45):
        complied = (hard < share).astype(float)
        found.append(np.where(rng.random(200) < 0.2 + 0.3 * (hard < 0.3), np.nan, complied))
    return tuple(found)


def judge_parts(function) -> bool | str:
    careful, effort, none = three()
    both = ~np.isnan(careful + effort + none)
    apart = [np.nanmean(one) for one in (careful, effort, none)]
    low, high, usual = (one[both].mean() for one in (careful, effort, none))
    return compare(
        result_of(function, *(one.copy() for one in (careful, effort, none))),
        (high - usual, usual - low),
        {
            "that is benefit and harm: the harm of shortcuts comes first.": (usual - low, high - usual),
            "each condition was averaged over other requests: keep those that were judged in all three.":
                (apart[1] - apart[2], apart[2] - apart[0]),
            "care lowers misalignment, and its benefit counts as positive here: none minus careful.":
                (high - usual, low - usual),
            "the first is the whole difference of the paper; the harm is effort-minimising minus none.":
                (high - low, usual - low),
            "these are rates: take differences from the rate without injection.": (high, low),
        },
        tolerance=1e-6,
    )  # fmt: skip


CHANCE = """
import torch

def chance(study, request, opening):
    prompt = study.chat.encode(request, "think", thought_prefix="").ids  # a thought is opened
    said = study.tokenizer(opening, add_special_tokens=False)["input_ids"]
    with torch.no_grad(), study.nn.trace(torch.tensor([prompt + said])):
        logits = study.nn.output.logits[0].save()
    shares = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return shares[range(len(said)), said].sum().exp()
"""
MIXTURE = """
def mixture(follows, shares):
    return sum(rate * share for rate, share in zip(follows, shares)) / sum(shares)
"""
BEGUN = """
import torch

def begun(study, request, opening):
    ids = torch.tensor([study.chat.encode(request, "think", thought_prefix=opening).ids])
    with torch.no_grad():
        found = study.hf.generate(ids, attention_mask=ids**0, max_new_tokens=48, do_sample=False)
    return study.tokenizer.decode(found[0, ids.shape[1]:])
"""
PARTS = """
import numpy as np

def parts(careful, effort, none):
    judged = ~np.isnan(careful + effort + none)
    low, high, usual = (one[judged].mean() for one in (careful, effort, none))
    return high - usual, usual - low
"""

EXERCISES = {
    "02.1": Exercise(
        "Put words into its mouth",
        ("medium", "essential", 10),
        "Write `begun(study, request, opening)`: what the model writes if its thought begins with the words `opening`, as text: "
        "the rest of the thought and the reply. At most 48 new tokens, always the most likely one (`do_sample=False`).",
        judge_begun,
        hints=(
            "`study.chat.encode(request, 'think', thought_prefix=opening).ids` is the prompt, `<think>`, a line break, and "
            "the opening.",
            "`study.hf.generate(ids, attention_mask=ids**0, max_new_tokens=48, do_sample=False)` gives prompt and text as ids "
            "of shape (1, length); decode those after the prompt.",
        ),
        answer="An injected beginning is nothing but token ids: the model cannot know that it did not choose them.",
        expects="a function that returns a text",
        code=BEGUN,
    ),
    "02.2": Exercise(
        "Harm and benefit",
        ("easy", "essential", 6),
        "Write `parts(careful, effort, none)`: the harm of shortcuts (effort-minimising minus none) and the benefit of care (none "
        "minus careful), as two fractions. All three are arrays with a number per request: 1 for complied, 0 for not, NaN where "
        "the reply was not judged. Use the requests that were judged in all three.",
        judge_parts,
        hints=(
            "`np.isnan` finds what was not judged; a sum of arrays is NaN where one of them is.",
            "Three means over the same requests, and two differences.",
        ),
        answer="The two parts add up to the paper's difference, which alone says nothing about either.",
        expects="a function that returns two numbers",
        code=PARTS,
    ),
    "02.3": Exercise(
        "How likely is an opening?",
        ("hard", "essential", 12),
        "Write `chance(study, request, opening)`: the probability that the model's own thought, once it is opened, begins with "
        "the words `opening`. No sampling: read it from the logits.",
        judge_chance,
        hints=(
            "`ids` of `study.chat.encode(request, 'think', thought_prefix='')` end in an opened thought. With the opening's ids "
            "behind: `study.hf(torch.tensor([ids])).logits[0]`. A token's chance is in the softmax at the position before.",
            "Multiply over the opening's tokens, or add their log probabilities and take `exp`.",
        ),
        answer="One pass gives exactly what many sampled thoughts would give roughly, also where it is tiny.",
        expects="a function that returns a probability",
        code=CHANCE,
    ),
    "02.4": Exercise(
        "What does a mixture give?",
        ("easy", "essential", 5),
        "Write `mixture(follows, shares)`: the misalignment rate to expect if thoughts open in several ways. `follows` has the "
        "rate after each opening and `shares` how often each comes. The shares need not add up to 1, where other thoughts open "
        "in none of these ways: asked is the rate among those that do.",
        judge_mixture,
        hints=(
            "Each opening's share times what follows it, summed.",
            "Divide by the sum of the shares.",
        ),
        answer="A rate that lies on its mixture is no second finding: it follows from the rates after the openings.",
        expects="a function that returns one number",
        code=MIXTURE,
    ),
    "02.5": Exercise(
        "The missing baseline",
        ("medium", "essential", 10),
        "Which statement do the paper's rates for Qwen3-4B support?",
        check_statement,
        hints=("Put the four numbers in order of size before you read the statements again.",),
        answer=(
            "`'b'`: the rates are 8.67 < 10.00 < 15.39 < 22.94. The two injected rates are 26 and 30 of 300 requests and cannot "
            "be ranked; both lie below thinking as usual, which is from another table, perhaps with unlike settings. Two "
            "injections alone cannot show that the worse one is worse than nothing."
        ),
        expects="a letter from a to d",
        code="'b'",
    ),
}
