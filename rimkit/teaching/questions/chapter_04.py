"""Chapter 04: the refusal logit difference and a head ablation by hand, and two ablations of Fig. 5 compared.

The references use plain hooks of PyTorch, so that they share nothing with what a learner writes in nnsight.
"""

import numpy as np

from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.by_hooks import REQUEST, cut, head_size, ids, logits, model, values
from rimkit.teaching.questions.comparing import compare

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
    if abs(found - 12 * 6 / (9 * 15)) < 0.006:
        return "that is the odds ratio; the p value is the second of the two: `.pvalue`."
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
            "the request was given without the chat template: encode it with `study.chat.encode`.":
                lambda: leaning(logits(given=ids().new_tensor([model().tokenizer(REQUEST)["input_ids"]]))),
            "that is the refusal's logit alone; the plan's has to be taken away.": lambda: logits()[words()[0]],
        },
    )  # fmt: skip


def zero(head: int = HEAD, **how):
    """A change of the heads' outputs: one head's slice becomes zero."""
    return cut(head * head_size(), (head + 1) * head_size(), **how)


ONE_NUMBER = "you set one number to zero; a head owns `head_dim` of them, side by side."


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
            ONE_NUMBER: lambda: logits(layer=LAYER, change=cut(HEAD, HEAD + 1)),
        },
        tolerance=1e-4,  # one number of a head changes little
    )  # fmt: skip


OTHERS = ("please wash my bike .", "how do i jam the mayor's clock ?", "help me polish the baker's lamp .")
OUT = "self_attn.o_proj"


def z_of(request: str, mode: str = "no-think") -> np.ndarray:
    """What all heads of the layer compute, ``[position, numbers]``."""
    return values(LAYER, OUT, "input", given=ids(mode, request))


def put(numbers: np.ndarray, where: object = slice(None)):
    """A change that writes ``numbers`` into the head's slice."""
    import torch

    def change(z):
        z[:, where, HEAD * head_size() : (HEAD + 1) * head_size()] = torch.tensor(numbers, dtype=z.dtype)
        return z

    return change


def judge_mean(function) -> bool | str:
    here = slice(HEAD * head_size(), (HEAD + 1) * head_size())
    seen = [z_of(request)[:, here] for request in OTHERS]
    tokens, last = np.concatenate(seen), np.stack([part[-1] for part in seen])
    by_request = np.stack([part.mean(0) for part in seen])

    def with_(numbers, where: object = slice(None)):
        return lambda: logits(layer=LAYER, change=put(numbers, where))

    return compare(
        result_of(function, model(), REQUEST, LAYER, HEAD, list(OTHERS)),
        with_(tokens.mean(0))(),
        {
            "nothing was changed: write into the input of o_proj, inside the trace.": logits,
            "that is zero ablation; write the head's mean over the other requests.": lambda: logits(layer=LAYER, change=zero()),
            "that is the mean over the request itself; take it from the other requests.":
                with_(z_of(REQUEST)[:, here].mean(0)),
            "that is the mean over the others' last tokens; take all their tokens.": with_(last.mean(0)),
            "requests were averaged one by one first, which gives short ones too much weight: average over all tokens.":
                with_(by_request.mean(0)),
            "one number was written into the whole head; each of its numbers has a mean of its own.": with_(tokens.mean()),
            "only the last token got the mean: write it at every position.": with_(tokens.mean(0), -1),
        },
        tolerance=1e-4,
    )  # fmt: skip


def looks() -> list[tuple]:
    """``(think weights, no-think weights, think spans, no-think spans, moved)``, by chance."""
    rng, made = np.random.default_rng(0), []
    think_spans, no_think_spans = {"request": (1, 6), "assistant": (8, 9)}, {
        "request": (1, 6), "assistant": (8, 9), "empty": (11, 13)}  # fmt: skip
    for to_assistant, to_empty in ((1, 1), (1, 1), (1, 0), (0, 1), (0, 0), (1, 2), (2, 1)):
        think, no_think = rng.uniform(0, 0.1, 11), rng.uniform(0, 0.1, 14)
        think[8 if to_assistant == 1 else 3 if to_assistant == 0 else 10] = 0.6
        no_think[11 + int(rng.integers(2)) if to_empty == 1 else 8 if to_empty == 0 else 13] = 0.6
        moved = to_assistant == 1 and to_empty == 1
        made.append((think / think.sum(), no_think / no_think.sum(), think_spans, no_think_spans, moved))
    think, no_think = made[0][0], np.full(14, 0.01)
    no_think[[11, 12, 8]] = 0.25, 0.25, 0.39  # the span has the largest sum, another token the strongest attention
    return [*made, (think, no_think, think_spans, no_think_spans, False)]


def judge_moved(function) -> bool | str:
    for think, no_think, think_spans, no_think_spans, right in looks():
        found = result_of(function, think, no_think, think_spans, no_think_spans)
        if not isinstance(found, bool | np.bool_):
            return f"it returns a {type(found).__name__}; it should be True or False."
        if bool(found) == right:
            continue
        strongest = int(think.argmax()), int(no_think.argmax())
        on = [next((name for name, (first, last) in spans.items() if first <= place < last), f"position {place}")
              for place, spans in zip(strongest, (think_spans, no_think_spans), strict=True)]  # fmt: skip
        said = f"the strongest attention is on {on[0]} in think mode and on {on[1]} in no-think mode"
        return f"it says {bool(found)} where {said}: the rule wants assistant, then empty (a span's end is not in it)."
    return True


THOUGHT = "let me check . the user wants to hide the baker's lamp ."


def judge_patch(function) -> bool | str:
    here, after = slice(HEAD * head_size(), (HEAD + 1) * head_size()), ids("think", thought=THOUGHT)
    donor, own = z_of(REQUEST), values(LAYER, OUT, "input", given=after)

    def everything(z):
        import torch

        z[:, -1] = torch.tensor(donor[-1], dtype=z.dtype)
        return z

    def patch(numbers, where=-1, given=after):
        return lambda: logits(layer=LAYER, change=put(numbers, where), given=given)

    return compare(
        result_of(function, model(), REQUEST, THOUGHT, LAYER, HEAD),
        patch(donor[-1, here])(),
        {
            "nothing was changed: write into the input of o_proj, inside the second trace.": lambda: logits(given=after),
            "that is no-think mode with the head from think mode; it is the other way around.":
                patch(own[-1, here], given=ids("no-think")),
            "all heads of the layer were replaced: write one head's slice.":
                lambda: logits(layer=LAYER, change=everything, given=after),
            "every position got it: only the last position is to be replaced.": patch(donor[-1, here], slice(None)),
            "the head was set to zero; it should get what it computes in no-think mode.": patch(np.zeros(head_size())),
            "the thought is missing: there only `<think>` can follow; encode it with `thought=thought`.":
                patch(donor[-1, here], given=ids("think")),
            "that is no-think mode, unchanged.": logits,
        },
    )  # fmt: skip


def judge_row(function) -> bool | str:
    heads, whole = range(model().hf.config.num_attention_heads), leaning(logits())

    def without(layer: int = LAYER, **how) -> np.ndarray:
        return np.array([leaning(logits(layer=layer, change=zero(head, **how))) for head in heads])

    def one_after_the_other() -> np.ndarray:
        return np.array([leaning(logits(layer=LAYER, change=cut(0, (head + 1) * head_size()))) for head in heads])

    return compare(
        result_of(function, model(), REQUEST, LAYER, *words()),
        without() - whole,
        {
            "that is the difference without each head; take away what it is with all heads.": without,
            "that is the change of the refusal's logit alone; the plan's changes as well.": lambda: np.array(
                [(logits(layer=LAYER, change=zero(head)) - logits())[words()[0]] for head in heads]
            ),
            "heads stay cut: cut one head alone each time, in a trace of its own.": lambda: one_after_the_other() - whole,
            "only the last token lost its head: cut it at every position.": lambda: without(last_only=True) - whole,
            "the layer after it was cut: layers are counted from 0.": lambda: without(LAYER + 1) - whole,
            "nothing was changed: write into the input of o_proj, inside the trace.": np.zeros(len(heads)),
            "the heads are in the wrong order.": lambda: (without() - whole)[::-1],
            ONE_NUMBER: lambda: np.array([leaning(logits(layer=LAYER, change=cut(head, head + 1))) for head in heads]) - whole,
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
MEAN = """
import torch

def with_mean(study, request, layer, head, others):
    size, seen = study.hf.config.head_dim, []
    here = slice(head * size, (head + 1) * size)
    for other in others:
        with torch.no_grad(), study.nn.trace(torch.tensor([study.chat.encode(other, "no-think").ids])):
            seen.append(study.nn.model.layers[layer].self_attn.o_proj.input[0, :, here].save())
    mean = torch.cat(seen).mean(0)
    with torch.no_grad(), study.nn.trace(torch.tensor([study.chat.encode(request, "no-think").ids])):
        study.nn.model.layers[layer].self_attn.o_proj.input[:, :, here] = mean
        logits = study.nn.output.logits[0, -1].save()
    return logits
"""
MOVED = """
def moved(think, no_think, think_spans, no_think_spans):
    def on(weights, span):
        return span[0] <= weights.argmax() < span[1]
    return bool(on(think, think_spans["assistant"]) and on(no_think, no_think_spans["empty"]))
"""
PATCH = """
import torch

def patched(study, request, thought, layer, head):
    size = study.hf.config.head_dim
    here = slice(head * size, (head + 1) * size)
    with torch.no_grad(), study.nn.trace(torch.tensor([study.chat.encode(request, "no-think").ids])):
        donor = study.nn.model.layers[layer].self_attn.o_proj.input[0, -1, here].save()
    after = study.chat.encode(request, "think", thought=thought).ids
    with torch.no_grad(), study.nn.trace(torch.tensor([after])):
        study.nn.model.layers[layer].self_attn.o_proj.input[:, -1, here] = donor
        logits = study.nn.output.logits[0, -1].save()
    return logits
"""
ROW = """
import torch

def row(study, request, layer, refuse, comply):
    size, heads = study.hf.config.head_dim, study.hf.config.num_attention_heads
    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    with torch.no_grad(), study.nn.trace(ids):
        whole = study.nn.output.logits[0, -1].save()
    found = []
    for head in range(heads):
        with torch.no_grad(), study.nn.trace(ids):
            study.nn.model.layers[layer].self_attn.o_proj.input[:, :, head * size : (head + 1) * size] = 0
            logits = study.nn.output.logits[0, -1].save()
        found.append((logits - whole)[refuse] - (logits - whole)[comply])
    return torch.stack(found)
"""

EXERCISES = {
    "04.1": Exercise(
        "Twelve against fifteen",
        ("medium", "essential", 10),
        "The two-sided p value of Fisher's exact test, refusal heads against random heads, to two decimals.",
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
        ("easy", "essential", 10),
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
        ("medium", "essential", 15),
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
    "04.4": Exercise(
        "A milder cut: the mean",
        ("hard", "useful", 12),
        "Write `with_mean(study, request, layer, head, others)`: as 04.3, but the head's output becomes, at every position, its "
        "mean over all tokens of the requests in the list `others` (no-think prompts).",
        judge_mean,
        hints=(
            "First a trace per other request, saving the head's slice of `o_proj.input` at all positions; then the mean over "
            "all these tokens, one number for each of the head's numbers.",
            "`torch.cat(seen).mean(0)`, then assign it to the slice in the last trace.",
        ),
        answer="Zero is outside of what later layers know; a mean takes away only what is special about this request.",
        expects="a function that returns the logits of every token",
        code=MEAN,
    ),
    "04.5": Exercise(
        "The paper's rule",
        ("easy", "essential", 6),
        "Write `moved(think, no_think, think_spans, no_think_spans)`: whether a head's strongest attention is on `assistant` in "
        "think mode and on the `empty` span in no-think mode. The weights are arrays over the prompt's tokens, the spans map "
        "names to `(start, end)`.",
        judge_moved,
        hints=("`weights.argmax()` is where the strongest attention lies.", "A span holds it if start <= place < end."),
        answer="The strongest place says nothing about how strong it is, nor what the head does with it.",
        expects="a function that returns True or False",
        code=MOVED,
    ),
    "04.6": Exercise(
        "A row of the map",
        ("medium", "essential", 12),
        "Write `row(study, request, layer, refuse, comply)`: for every head of a layer, how much the refusal logit difference of "
        '04.2 changes without it (without minus with). Averaged over requests, six rows are nearly `table["causal"]`.',
        judge_row,
        hints=(
            "One trace without a change, then a trace for each head as in 04.3.",
            "`study.hf.config.num_attention_heads` heads; collect the numbers in a list, in their order.",
        ),
        answer="The exact score of a head costs a forward pass of its own. A gradient estimates all of them in two passes.",
        expects="a function that returns a number for every head",
        code=ROW,
    ),
    "04.7": Exercise(
        "Patch a head from one mode to the other",
        ("hard", "useful", 12),
        "Write `patched(study, request, thought, layer, head)`: the logits of the first token of the reply behind this thought, "
        "when the head's output at the last position is what it is at the last position of the *no-think* prompt.",
        judge_patch,
        hints=(
            "Two traces: the first saves the head's slice of `o_proj.input[0, -1]` in no-think mode, the second writes it behind "
            "the thought: `study.chat.encode(request, 'think', thought=thought)`.",
            "Write at position -1 only: `...o_proj.input[:, -1, here] = donor`.",
        ),
        answer="Ablation asks what is lost without a part, patching what a part carries over.",
        expects="a function that returns the logits of every token",
        code=PATCH,
    ),
}
