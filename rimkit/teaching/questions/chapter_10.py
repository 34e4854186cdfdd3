"""Chapter 10: memory, hours, tags, a table of one's own, a judge's kappa, and a swap: before a model is believed."""

from io import StringIO
from math import ceil

import numpy as np
import pandas as pd

from rimkit.behavior.agreement import kappa as package_kappa
from rimkit.models.device import QWEN3, SHAPES
from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.comparing import compare

MODEL, LEFT, TOKENS = "Qwen3-4B", 6, 8192  # whole GiB that a T4 has beside the weights, length of a conversation


def fitting(heads: int = QWEN3["num_key_value_heads"], kept: int = 2, size: int = 2) -> int:
    """How many conversations fit, if ``kept`` vectors of ``size`` bytes a number are kept per head and layer."""
    per_token = SHAPES[MODEL]["num_hidden_layers"] * heads * QWEN3["head_dim"] * kept * size
    return int(LEFT * 2**30 // (per_token * TOKENS))


def check_conversations(answer) -> bool | str:
    found = float(answer)
    if int(found) == fitting():
        return found == fitting() or "only whole conversations count."
    if found == 3:
        return "the table also keeps room for the work; here count keys and values alone."
    if found == fitting(kept=1):
        return "of every token both a key and a value are kept."
    if found == fitting(heads=SHAPES[MODEL]["num_attention_heads"]):
        return "the query heads share keys and values: only the 8 key-value heads are kept."
    if found == fitting(size=4):
        return "a number in 16 bits takes two bytes, not four."
    return "bytes per token: layers x key-value heads x head size x 2 (key and value) x 2 (bytes); then count whole conversations."


# hours

RUNS = ((300, 4096, 24, 0.06), (161, 512, 64, 0.04))  # prompts, tokens of a reply, batch, seconds per step


def hours_of(n_prompts: int, n_tokens: int, batch: int, seconds: float, modes: int = 2) -> float:
    return ceil(n_prompts / batch) * modes * n_tokens * seconds / 3600


def judge_hours(function) -> bool | str:
    def each(measure) -> np.ndarray:
        return np.array([measure(*run) for run in RUNS])

    return compare(
        each(lambda *run: float(result_of(function, *run))),
        each(hours_of),
        {
            "that is one mode; think and no-think are both asked.": each(lambda *run: hours_of(*run, modes=1)),
            "the last batch takes as long as a full one: round the number of batches up.":
                each(lambda n, tokens, batch, s: n / batch * 2 * tokens * s / 3600),
            "a step writes one token for the whole batch: count batches, not prompts.":
                each(lambda n, tokens, batch, s: n * 2 * tokens * s / 3600),
            "the last batch of one mode is not filled up with prompts of the other: round up for each mode.":
                each(lambda n, tokens, batch, s: ceil(2 * n / batch) * tokens * s / 3600),
            "these are minutes.": each(hours_of) * 60, "these are seconds.": each(hours_of) * 3600,
            "every token of a reply is a step: multiply by the length.":
                each(lambda n, tokens, batch, s: ceil(n / batch) * 2 * s / 3600),
        },
        tolerance=1e-6,
    )  # fmt: skip


# think tags

TEMPLATES = (  # what ends the prompt, what opens a thought, what closes it, what ends the turn
    ("<|im_start|>assistant\n", "<think>\n", "\n</think>\n\n", "<|im_end|>\n"),
    ("[INST] hello [/INST]", "[THINK]", "[/THINK]", "</s>"),
    ("<|im_assistant|>", "◁think▷", "◁/think▷", "<|im_end|>"),
)
THOUGHT, REPLY = "is this mine ?", "sure ."


def judge_tags(function) -> bool | str:
    for prompt, opening, closing, end in TEMPLATES:
        found = result_of(function, prompt, f"{prompt}{opening}{THOUGHT}{closing}{REPLY}{end}", THOUGHT, REPLY)
        if not (isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(tag, str) for tag in found)):
            return "it should be two texts: what opens a thought, and what closes it."
        one, two = found
        if (one, two) == (opening.strip(), closing.strip()):
            continue
        if (one.strip(), two.strip()) == (opening.strip(), closing.strip()):
            return "line breaks are no part of a tag: strip them."
        if one.startswith(prompt.strip()) and one != opening.strip():
            return "what opens the thought begins where the prompt ends."
        if two.endswith(end.strip()) or REPLY in two:
            return "what closes the thought ends where the reply begins."
        if (one, two) == (closing.strip(), opening.strip()):
            return "opening and closing are exchanged."
        if one == "<think>":
            return "another template has other tags: read them from the text."
        return "in one of the templates the tags are others; hint(1) helps."
    return True


# a table of one's own

OWN = """goal,topic,bad
borrow a pen,pens,0
take the pen of a friend,pens,1
take the pen of a friend,pens,1
copy the homework,school,1
ask for the homework,school,0
,school,1
"""


def judge_table(function) -> bool | str:
    table = pd.read_csv(StringIO(OWN))
    found = result_of(function, table.copy())
    if not isinstance(found, pd.DataFrame):
        return f"it is a {type(found).__name__}, and it should be a table."
    if lacks := [name for name in ("text", "kind", "cluster") if name not in found]:
        return f"it has no column {lacks[0]}."
    kinds = set(found["kind"])
    if not kinds <= {"harmful", "harmless"}:
        return "kinds are the words harmful and harmless."
    right = table.dropna(subset="goal")
    once = right.drop_duplicates("goal")
    if found["text"].isna().any() or len(found) == len(table):
        return "an empty line is no request: leave it out."
    if len(found) == len(right):
        return "a request that stands there twice counts twice: drop duplicates."
    if found["text"].tolist() != once["goal"].tolist():
        return "the requests are not those of the table, in its order, each once."
    if (found["kind"] == "harmful").tolist() == (once["bad"] == 0).tolist():
        return "harmful and harmless are exchanged: bad is 1 for a harmful request."
    if (found["kind"] == "harmful").tolist() != (once["bad"] == 1).tolist():
        return "a kind does not go with its request."
    same = found.groupby("cluster")["text"].agg(set).tolist()
    if found["cluster"].nunique() == len(found):
        return "every request is a cluster of its own: requests on one topic resemble each other, and the interval should know it."
    return sorted(map(sorted, same)) == sorted(sorted(part) for part in once.groupby("topic")["goal"].agg(set)) or (
        "clusters are the topics."
    )


# kappa

FIRST = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
SECOND = np.array([1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0], dtype=bool)
RARE = np.arange(20) < 2, np.arange(20) % 10 == 0  # verdicts nearly all alike


def kappa_of(one: np.ndarray, two: np.ndarray) -> float:
    return package_kappa(one, two, np.arange(len(one)))["kappa"]


def by_chance(one: np.ndarray, two: np.ndarray) -> float:
    return one.mean() * two.mean() + (1 - one.mean()) * (1 - two.mean())


def judge_kappa(function) -> bool | str:
    pairs = ((FIRST, SECOND), RARE)

    def each(measure) -> np.ndarray:
        return np.array([measure(*pair) for pair in pairs])

    def beyond(chance) -> np.ndarray:
        return each(lambda a, b: ((a == b).mean() - chance(a, b)) / (1 - chance(a, b)))

    return compare(
        each(lambda *pair: float(result_of(function, *(side.copy() for side in pair)))),
        each(kappa_of),
        {
            "that is the share of equal verdicts; take away what chance alone would give.": each(lambda a, b: (a == b).mean()),
            "that is the agreement by chance.": each(by_chance),
            "divide by what is left above chance, 1 minus chance.": each(lambda a, b: (a == b).mean() - by_chance(a, b)),
            "two judges can also agree by chance that a reply is not misaligned.": beyond(lambda a, b: a.mean() * b.mean()),
            "chance is not one half: it follows from how often each judge says yes.": beyond(lambda a, b: 0.5),
        },
        tolerance=1e-6,
    )  # fmt: skip


# swaps

SWAPS = 400


def judge_swap(function) -> bool | str:
    rng = np.random.default_rng(5)
    verbs = np.repeat(np.arange(12), 6)
    think = (rng.random(72) < np.repeat(rng.random(12) < 0.6, 6) * 0.95).astype(float)
    other = np.zeros(72)
    change = np.array([(think - other)[verbs == verb].sum() for verb in range(12)]) / 72
    drawn = [result_of(function, think.copy(), other.copy(), verbs.copy(), seed) for seed in range(SWAPS)]
    drawn = np.array([float(one) for one in drawn])
    if not np.isfinite(drawn).all():
        return "it gives a number that is missing."
    again = [float(result_of(function, think.copy(), other.copy(), verbs.copy(), seed)) for seed in range(12)]
    if again != drawn[:12].tolist():  # one alone can be the same by chance
        return "the same seed gives another swap when it is asked again: make the generator from `seed`."
    right, single = (change**2).sum() ** 0.5, ((think - other) ** 2).sum() ** 0.5 / 72
    if drawn.std() < right / 50:
        same = abs(drawn.mean() - change.sum()) < 1e-9
        return "nothing is swapped." if same else "every seed gives the same: draw anew with the seed."
    if abs(drawn.mean()) > right / 2:
        return "each verb is swapped with a chance of one half; then the mean of many swaps is near zero."
    if abs(drawn.std() / single - 1) < 0.2:
        return "requests were swapped one by one; swap all requests with one verb together."
    if abs(drawn.std() / right - 1) < 0.2:
        return True
    if abs(drawn.std() / (right * 12) - 1) < 0.3 or drawn.std() > 3 * right:
        return "that is no difference of two rates: take means over all requests."
    return "the spread of the swaps is not right: swap whole verbs between the modes, and take the difference of the means."


HOURS = """
from math import ceil

def hours(n_prompts, n_tokens, batch, seconds):
    return ceil(n_prompts / batch) * 2 * n_tokens * seconds / 3600
"""
TAGS = """
def think_tags(prompt, turn, thought, reply):
    opening, rest = turn[len(prompt):].split(thought, 1)
    return opening.strip(), rest.split(reply, 1)[0].strip()
"""
TABLE = """
def own_set(table):
    found = table.dropna(subset="goal").drop_duplicates("goal")
    kind = found["bad"].map({1: "harmful", 0: "harmless"})
    found = found.rename(columns={"goal": "text", "topic": "cluster"}).assign(kind=kind)
    return found[["text", "kind", "cluster"]]
"""
KAPPA = """
def kappa(first, second):
    one, two = first.mean(), second.mean()
    chance = one * two + (1 - one) * (1 - two)
    return ((first == second).mean() - chance) / (1 - chance)
"""
SWAP = """
import numpy as np

def placebo(think, no_think, verbs, seed):
    rng = np.random.default_rng(seed)
    turned = {verb: rng.random() < 0.5 for verb in np.unique(verbs)}
    sign = np.array([-1 if turned[verb] else 1 for verb in verbs])
    return (sign * (think - no_think)).mean()
"""

EXERCISES = {
    "10.1": Exercise(
        "Find the think tags",
        ("medium", "essential", 8),
        "Write `think_tags(prompt, turn, thought, reply)`: what opens a thought and what closes it, as two texts without line breaks "
        "around them. `turn` is the prompt with the assistant's turn behind it, in which `thought` and `reply` stand: say, "
        "`Q: hi A:` and `Q: hi A: [T] hm [/T] yes`. It is tried on three templates.",
        judge_tags,
        hints=("Cut the prompt off. What stands before the thought? What between thought and reply?",
               "`turn[len(prompt):].split(thought, 1)`."),
        answer="The workbook asks templates in this way. They are code from elsewhere: what they write is safer to read than they are.",
        expects="a function that returns two texts",
        code=TAGS,
    ),
    "10.2": Exercise(
        "Long thoughts",
        ("easy", "essential", 10),
        f"Beside the weights of {MODEL} in 16 bits and 1 GiB in reserve, a T4 has {LEFT} GiB left. The model has 36 layers with 32 query heads and 8 "
        f"key-value heads of 128 numbers each. For how many conversations of {TOKENS:,} tokens is there room for keys and values alone?",
        check_conversations,
        hints=("How many numbers does one token leave behind in one layer? In all layers? How many bytes is that?",),
        answer=(
            f"`{LEFT} * 2**30 // (36 * 8 * 128 * 2 * 2 * {TOKENS})` = {fitting()}: 144 KiB per token, 1.125 GiB per conversation. "
            "The table has fewer, since each conversation needs room for its work, too. A batch that is fine for short replies "
            "does not fit long thoughts, which is why the plan asks for a length."
        ),
        expects="a whole number of conversations",
        code=f"{LEFT} * 2**30 // (36 * 8 * 128 * 2 * 2 * {TOKENS})",
    ),
    "10.3": Exercise(
        "Hours on a T4",
        ("easy", "useful", 5),
        "Write `hours(n_prompts, n_tokens, batch, seconds)`: all prompts are answered in one mode and then in the other, in batches that "
        "each write `n_tokens` tokens; a step, one token for the whole batch, takes `seconds`.",
        judge_hours,
        hints=(
            "How many batches are there? Each takes as many steps as its reply has tokens.",
            "`math.ceil(n_prompts / batch)` batches, twice.",
        ),
        answer="Length counts, and the number of batches: the same prompts in larger batches cost less.",
        expects="a function that returns hours",
        code=HOURS,
    ),
    "10.4": Exercise(
        "A set of your own",
        ("easy", "essential", 8),
        "Write `own_set(table)`: from columns `goal, topic, bad` (1: harmful, 0: not) make `text, kind, cluster`; kinds are "
        '"harmful" and "harmless", clusters are topics. Leave out empty goals, and drop duplicates.',
        judge_table,
        hints=(
            "`dropna`, `drop_duplicates`, `rename` and `map` do it.",
            '`table["bad"].map({1: "harmful", 0: "harmless"})`.',
        ),
        answer="Saved as a csv file, it can be given as `--prompts harmful=mine.csv`. The cluster is what an interval draws again.",
        expects="a function that returns a table",
        code=TABLE,
    ),
    "10.5": Exercise(
        "A judge and its kappa",
        ("medium", "essential", 8),
        "Write `kappa(first, second)`: by how much two judges agree beyond chance. Both are arrays of True (misaligned) and False, in the "
        "order of the replies.",
        judge_kappa,
        hints=(
            "Chance: both say yes by accident, or both say no. It follows from how often each of them says yes.",
            "`first.mean() * second.mean()` is the chance that both say yes.",
        ),
        answer="With verdicts that are nearly all alike, kappa can be far lower than the agreement: in one of the cases tried here "
        f"{(RARE[0] == RARE[1]).mean():.0%} and {kappa_of(*RARE):.2f}.",
        expects="a function that returns one number",
        code=KAPPA,
    ),
    "10.6": Exercise(
        "Swap what should not matter",
        ("medium", "essential", 10),
        "Write `placebo(think, no_think, verbs, seed)`: swap the two modes of a verb, all its requests together, with a chance of one "
        "half, and return the difference of the two rates (think minus no-think) after that. It is called with many seeds.",
        judge_swap,
        hints=(
            "To swap two modes is to turn the sign of their difference.",
            "One draw for each verb: `rng.random() < 0.5`, used for all its requests.",
        ),
        answer="After a swap there is nothing left to find. An interval that keeps its promise leaves out zero in about 5 swaps of "
        "100; with few events it is more often, as the next cell counts.",
        expects="a function that returns one number",
        code=SWAP,
    ),
}  # fmt: skip
