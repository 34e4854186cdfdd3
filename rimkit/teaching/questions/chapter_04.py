"""Chapter 04: the refusal logit difference and a head ablation by hand, and two ablations of Fig. 5 compared.

The references use plain hooks of PyTorch, so that they share nothing with what a learner writes in nnsight.
"""

from __future__ import annotations

import numpy as np

from rimkit.teaching.exercises import Exercise, compare, result_of
from rimkit.teaching.questions.by_hooks import REQUEST, cut, head_size, logits, model

LAYER, HEAD = 1, 5  # on which functions are tried; neither stands in the chapter

ABLATED = {"refusal heads": 12, "nothing": 13, "random heads": 15}  # fulfilled requests above threshold, of 21 (Fig. 5)


def fisher(one: str, other: str, alternative: str = "two-sided") -> float:
    """Fisher's exact p value for two rows of `ABLATED`."""
    from scipy.stats import fisher_exact

    return float(fisher_exact([[ABLATED[name], 21 - ABLATED[name]] for name in (one, other)], alternative).pvalue)


def check_fisher(answer) -> bool | str:
    found = float(answer)
    if not 0 <= found <= 1:
        return "a p value lies between 0 and 1."
    if abs(found - fisher("refusal heads", "random heads")) < 0.006:
        return True
    if abs(found - fisher("refusal heads", "random heads", "less")) < 0.006:
        return "that is the one-sided p value, and the direction was not fixed beforehand."
    if abs(found - fisher("refusal heads", "nothing")) < 0.006:
        return "that compares the refusal heads with no ablation at all: instructive, but not what was asked."
    return "the table has two rows (refusal heads, random heads) and two columns (above, not above the threshold)."


# the two by hand


def words() -> tuple[int, int]:
    """Two tokens: how a refusal begins, and how a plan begins."""
    return tuple(model().tokenizer.convert_tokens_to_ids(word) for word in ("i", "sure"))


def leaning(found: np.ndarray) -> float:
    refuse, comply = words()
    return float(found[refuse] - found[comply])


def judge_leaning(function) -> bool | str:
    def shares(found: np.ndarray) -> np.ndarray:
        return np.exp(found - found.max()) / np.exp(found - found.max()).sum()

    return compare(
        result_of(function, model(), REQUEST, *words()),
        leaning(logits()),
        {
            "it is read one token too early: the next token is predicted at the last one, position -1.":
                lambda: leaning(logits(position=-2)),
            "it is read at the first token, which has seen nothing of the request.": lambda: leaning(logits(position=0)),
            "that is think mode; the prompt is that of no-think mode.": lambda: leaning(logits(mode="think")),
            "that is a difference of probabilities; take the logits as they are.": lambda: leaning(shares(logits())),
            "that is the refusal's logit alone; the plan's has to be taken away.": lambda: logits()[words()[0]],
        },
    )  # fmt: skip


def zero(head: int = HEAD, **how):
    """A change of the heads' outputs: one head's slice becomes zero."""
    return cut(head * head_size(), (head + 1) * head_size(), **how)


def judge_ablation(function) -> bool | str:
    def mean(z):
        here = slice(HEAD * head_size(), (HEAD + 1) * head_size())
        z[:, :, here] = z[:, :, here].mean()
        return z

    return compare(
        result_of(function, model(), REQUEST, LAYER, HEAD),
        logits(layer=LAYER, change=zero()),
        {
            "nothing was changed: write into the input of o_proj, inside the trace.": logits,
            "the whole attention of the layer is gone: set one head's slice to zero, not all of o_proj.":
                lambda: logits(layer=LAYER, change=lambda z: z * 0),
            "only the last token lost its head: cut it at every position.":
                lambda: logits(layer=LAYER, change=zero(last_only=True)),
            "the head after it was cut: heads are counted from 0.":
                lambda: logits(layer=LAYER, change=zero(HEAD + 1)),
            "the layer after it was cut: layers are counted from 0.": lambda: logits(layer=LAYER + 1, change=zero()),
            "that writes the mean of the head, not zero.": lambda: logits(layer=LAYER, change=mean),
            "numbers of o_proj's output were set to zero: heads lie side by side in its input.":
                lambda: logits(layer=LAYER, change=zero(), where="output"),
            "it is read one token too early: the last position is -1.":
                lambda: logits(position=-2, layer=LAYER, change=zero()),
        },
    )  # fmt: skip


LEANING = """
import torch

def leaning(study, request, refuse, comply):
    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    with torch.no_grad(), study.nn.trace(ids):
        logits = study.nn.output.logits[0, -1].save()
    return logits[refuse] - logits[comply]
"""
WITHOUT_HEAD = """
import torch

def without_head(study, request, layer, head):
    size = study.hf.config.head_dim
    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    with torch.no_grad(), study.nn.trace(ids):
        z = study.nn.model.layers[layer].self_attn.o_proj.input
        z[:, :, head * size : (head + 1) * size] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits
"""

EXERCISES = {
    "04.1": Exercise(
        "Twelve against fifteen",
        "medium",
        "essential",
        10,
        "The two-sided p value of Fisher's exact test, refusal heads against random heads.",
        check_fisher,
        hints=(
            "`fisher_exact([[12, 9], [15, 6]])`: rows are the two ablations, columns above and not above the threshold.",
        ),
        answer=(
            f"`{fisher('refusal heads', 'random heads'):.2f}`: a difference at least as large arises by chance about every other time. Against no "
            f"ablation (13 of 21) the p value is {fisher('refusal heads', 'nothing'):.2f}: it is the random control that moved. "
            "With 21 requests, only a very large effect could have been seen."
        ),
        expects="a number between 0 and 1",
        code="from scipy.stats import fisher_exact\n\nfisher_exact([[12, 9], [15, 6]]).pvalue",
    ),
    "04.2": Exercise(
        "The refusal logit difference",
        "easy",
        "essential",
        10,
        "Write `leaning(study, request, refuse, comply)`: how much higher the logit of the token `refuse` is than that of "
        "`comply`, for the first token of the reply in no-think mode. Both are token ids.",
        judge_leaning,
        hints=(
            "`study.chat.encode(request, 'no-think').ids` is the prompt; inside `study.nn.trace(...)` the logits are "
            "`study.nn.output.logits`, of shape (batch, position, token).",
            "What comes next is predicted at the last position. Save what leaves the trace.",
        ),
        answer="The first word of the reply decides: refusals begin with one token, plans with another.",
        expects="a function that returns one number",
        code=LEANING,
    ),
    "04.3": Exercise(
        "Switch off a head by hand",
        "medium",
        "essential",
        15,
        "Write `without_head(study, request, layer, head)`: the logits of the first token of the reply in no-think mode, "
        "with one head's output set to zero at every position.",
        judge_ablation,
        hints=(
            "The outputs of all heads stand side by side in `study.nn.model.layers[layer].self_attn.o_proj.input`, "
            "`study.hf.config.head_dim` numbers each.",
            "Write into a slice of it inside the trace: `z[:, :, first:last] = 0`.",
        ),
        answer="Zero ablation, as `rk.interventions` does it. The input of `o_proj` is the last place where heads are apart.",
        expects="a function that returns the logits of every token",
        code=WITHOUT_HEAD,
    ),
}
