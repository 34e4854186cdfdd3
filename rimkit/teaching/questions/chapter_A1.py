"""Primer A1: the residual stream, a head and its message, a plain hook, neurons switched off, each by hand."""

import numpy as np

from rimkit.teaching.exercises import Exercise, result_of
from rimkit.teaching.questions.by_hooks import REQUEST, cut, head_size, logits, model, part, value
from rimkit.teaching.questions.comparing import compare

LAYER, HEAD, NEURONS = 2, 3, (5, 40, 41, 200)  # on which functions are tried; they stand in no chapter
OUT, DOWN = "self_attn.o_proj", "mlp.down_proj"


def layers() -> int:
    return model().hf.config.num_hidden_layers


def stream(where: str = "output", name: str = "", **how) -> np.ndarray:
    """What a module of every layer gives, ``[layers, numbers]``."""
    return np.stack([value(layer, name, where, **how) for layer in range(layers())])


def residual(**how) -> np.ndarray:
    return np.vstack([value(0, where="input", **how), stream(**how)])


def judge_residual(function) -> bool | str:
    def normed() -> np.ndarray:
        import torch

        with torch.no_grad():
            last = model().hf.model.norm(torch.tensor(residual()[-1])).numpy()
        return np.vstack([residual()[:-1], last])

    found = result_of(function, model(), REQUEST)
    if len(np.shape(found)) == 2 and len(found) == layers():
        return "the state before the first layer is missing: the embedding comes first, then one state per layer."
    return compare(
        found,
        residual(),
        {
            "these are the states of the first token, which has seen nothing of the request; the last is at -1.":
                lambda: residual(position=0),
            "these are the states one token before the last.": lambda: residual(position=-2),
            "that is think mode; the prompt is that of no-think mode.": lambda: residual(mode="think"),
            "that is what attention adds; a layer's own output is the stream after it.":
                lambda: np.vstack([value(0, where="input"), stream(name="self_attn.o_proj")]),
            "that is what the MLP adds; a layer's own output is the stream after it.":
                lambda: np.vstack([value(0, where="input"), stream(name="mlp")]),
            "the last state is normed already; take the layer's output, not the model's hidden states.": normed,
        },
    )  # fmt: skip


def z(layer: int = LAYER, head: int = HEAD, **how) -> np.ndarray:
    """What one head computes, before `o_proj`."""
    size = head_size()
    return value(layer, OUT, "input", **how)[head * size : (head + 1) * size]


def judge_head(function) -> bool | str:
    size, heads = head_size(), model().hf.config.num_attention_heads
    return compare(
        result_of(function, model(), REQUEST, LAYER, HEAD),
        z(),
        {
            "numbers of all heads are mixed: a head's numbers stand side by side, it is no use to take every "
            f"{heads}th.": lambda: value(LAYER, OUT, "input")[HEAD::heads],
            "that is always the first head: the slice starts at head * head_dim.": lambda: z(head=0),
            "that is the head after it: heads are counted from 0.": lambda: z(head=HEAD + 1),
            "that is the layer after it: layers are counted from 0.": lambda: z(layer=LAYER + 1),
            "that is o_proj's output, in which the heads are mixed already: read its input.":
                lambda: value(LAYER, OUT)[HEAD * size : (HEAD + 1) * size],
            "it is read at the first token; the last is at -1.": lambda: z(position=0),
            "that is think mode; the prompt is that of no-think mode.": lambda: z(mode="think"),
        },
    )  # fmt: skip


def written(layer: int = LAYER, head: int = HEAD, **how) -> np.ndarray:
    """What one head adds to the residual stream."""
    size = head_size()
    weight = part(layer, OUT).weight.detach().float().numpy()[:, head * size : (head + 1) * size]
    return weight @ z(layer, head, **how)


def judge_written(function) -> bool | str:
    size = head_size()

    def rows() -> np.ndarray:
        return z() @ part(LAYER, OUT).weight.detach().float().numpy()[HEAD * size : (HEAD + 1) * size]

    return compare(
        result_of(function, model(), REQUEST, LAYER, HEAD),
        written(),
        {
            "that is what all heads of the layer write together: take this head's columns of the weight.":
                lambda: value(LAYER, OUT),
            "the weight's rows were taken; o_proj.weight is (out, in), so a head has columns.": rows,
            "that is the head after it: heads are counted from 0.": lambda: written(head=HEAD + 1),
            "that is the layer after it: layers are counted from 0.": lambda: written(layer=LAYER + 1),
            "it is read at the first token; the last is at -1.": lambda: written(position=0),
        },
    )  # fmt: skip


def hooks_left() -> list:
    """The hooks that stand on some module now."""
    return [
        (module._forward_hooks if place else module._forward_pre_hooks, key)
        for module in model().hf.modules()
        for place in (0, 1)
        for key in (module._forward_hooks if place else module._forward_pre_hooks)
    ]


def judge_hook(function) -> bool | str:
    before = [key for _, key in hooks_left()]
    try:
        found = result_of(function, model(), REQUEST, LAYER)
    finally:
        left = [(hooks, key) for hooks, key in hooks_left() if key not in before]
        for hooks, key in left:
            del hooks[key]
    right = compare(
        found,
        value(LAYER),
        {
            "that is what enters the layer: a pre-hook sees the input, a forward hook the output.":
                lambda: value(LAYER, where="input"),
            "that is the layer after it: layers are counted from 0.": lambda: value(LAYER + 1),
            "it is read at the first token; the last is at -1.": lambda: value(LAYER, position=0),
            "that is what attention adds, not the stream after the layer.": lambda: value(LAYER, OUT),
            "that is think mode; the prompt is that of no-think mode.": lambda: value(LAYER, mode="think"),
        },
    )  # fmt: skip
    if right is True and left:
        return (
            "the numbers are right, but the hook is still there and would act in every later cell: keep what "
            "register_forward_hook gives back, and call its remove(), best in a finally block."
        )
    return right


def judge_neurons(function) -> bool | str:
    neurons = list(NEURONS)

    def zero(where: object = slice(None), keep: bool = False):
        def change(numbers):
            chosen = [unit for unit in range(numbers.shape[-1]) if (unit in neurons) != keep]
            numbers[:, where, chosen] = 0
            return numbers

        return change

    try:
        found = result_of(function, model(), REQUEST, LAYER, neurons)
    except Exception as error:
        if "out of bounds" not in str(error):
            raise
        return (
            f"the place that was cut has no number {max(neurons)}: it is as wide as the stream, and so it is no place of "
            "neurons. They are the numbers that enter mlp.down_proj, its input."
        )
    return compare(
        found,
        logits(layer=LAYER, name=DOWN, change=zero()),
        {
            "nothing was changed: write into down_proj's input itself, inside the trace.": logits,
            "only the last token lost its neurons: cut them at every position.":
                lambda: logits(layer=LAYER, name=DOWN, change=zero(where=-1)),
            "all other neurons were switched off, and these were kept.":
                lambda: logits(layer=LAYER, name=DOWN, change=zero(keep=True)),
            "numbers of down_proj's output were set to zero: neurons are the numbers of its input.":
                lambda: logits(layer=LAYER, name=DOWN, change=zero(), where="output"),
            "that is the layer after it: layers are counted from 0.":
                lambda: logits(layer=LAYER + 1, name=DOWN, change=zero()),
            "the whole MLP is gone: only the listed neurons are to be zero.":
                lambda: logits(layer=LAYER, name=DOWN, change=cut(0, None)),
            "numbers of the heads were set to zero: neurons stand in the input of mlp.down_proj.":
                lambda: logits(layer=LAYER, name=OUT, change=zero()),
            "it is read one token too early: the last position is -1.":
                lambda: logits(position=-2, layer=LAYER, name=DOWN, change=zero()),
        },
    )  # fmt: skip


RESIDUAL = """
import torch

def residual(study, request):
    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    states = []
    with torch.no_grad(), study.nn.trace(ids):
        states.append(study.nn.model.embed_tokens.output[0, -1].save())
        for layer in study.nn.model.layers:
            states.append(layer.output[0, -1].save())
    return torch.stack(states)
"""
HEAD_OUTPUT = """
import torch

def head_output(study, request, layer, head):
    size = study.hf.config.head_dim
    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    with torch.no_grad(), study.nn.trace(ids):
        z = study.nn.model.layers[layer].self_attn.o_proj.input[0, -1].save()
    return z[head * size : (head + 1) * size]
"""
MESSAGE = """
import torch

def message(study, request, layer, head):
    size = study.hf.config.head_dim
    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    with torch.no_grad(), study.nn.trace(ids):
        z = study.nn.model.layers[layer].self_attn.o_proj.input[0, -1].save()
    here = slice(head * size, (head + 1) * size)
    return study.hf.model.layers[layer].self_attn.o_proj.weight[:, here] @ z[here]
"""
HOOK = """
import torch

def by_hook(study, request, layer):
    seen = []

    def keep(module, inputs, output):
        seen.append(output[0, -1])

    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    handle = study.hf.model.layers[layer].register_forward_hook(keep)
    try:
        with torch.no_grad():
            study.hf(ids)
    finally:
        handle.remove()
    return seen[0]
"""
WITHOUT_NEURONS = """
import torch

def without_neurons(study, request, layer, neurons):
    ids = torch.tensor([study.chat.encode(request, "no-think").ids])
    with torch.no_grad(), study.nn.trace(ids):
        study.nn.model.layers[layer].mlp.down_proj.input[:, :, neurons] = 0
        logits = study.nn.output.logits[0, -1].save()
    return logits
"""

EXERCISES = {
    "A1.1": Exercise(
        "Read the residual stream",
        ("easy", "essential", 8),
        "Write `residual(study, request)`: the residual stream at the last token of the no-think prompt, before the first "
        "layer (`study.nn.model.embed_tokens.output`) and after each one (`study.nn.model.layers`), stacked to a tensor of "
        "shape (layers + 1, hidden).",
        judge_residual,
        hints=(
            "In one trace: `study.nn.model.embed_tokens.output`, then `layer.output` for every layer of "
            "`study.nn.model.layers`, in this order. All have the shape (batch, position, hidden).",
            "Make the list before the trace, append each state inside it, saved (`.save()`), and stack them after it.",
        ),
        answer="The embedding is the stream's first state; a layer's output is the stream after the layer.",
        expects="a function that returns numbers of shape (layers + 1, hidden)",
        code=RESIDUAL,
    ),
    "A1.2": Exercise(
        "Read one head",
        ("medium", "essential", 8),
        "Write `head_output(study, request, layer, head)`: what one head computes at the last token of the no-think prompt, "
        "before `o_proj` mixes the heads. It has `head_dim` numbers.",
        judge_head,
        hints=(
            "The input of `study.nn.model.layers[layer].self_attn.o_proj` holds all heads side by side.",
            "Head number `head` has the numbers from `head * size` up to `(head + 1) * size`.",
        ),
        answer="Before `o_proj` the heads are apart, after it they are not.",
        expects="a function that returns head_dim numbers",
        code=HEAD_OUTPUT,
    ),
    "A1.3": Exercise(
        "What a head writes",
        ("medium", "useful", 8),
        "Write `message(study, request, layer, head)`: what this head adds to the residual stream at the last token "
        "(no-think mode). It has `hidden` numbers, and over all heads of a layer they sum to what `o_proj` gives.",
        judge_written,
        hints=(
            "`o_proj` is a matrix without a bias: its output is `weight @ z`, with `weight` of shape (hidden, heads x head_dim).",
            "Only this head's columns of the weight meet this head's numbers.",
        ),
        answer="The heads of a layer write independently: their messages add up. That is why one can be taken away.",
        expects="a function that returns hidden numbers",
        code=MESSAGE,
    ),
    "A1.4": Exercise(
        "The same with a plain hook",
        ("medium", "useful", 8),
        "Write `by_hook(study, request, layer)`: the residual stream after one layer at the last token (no-think mode), by "
        "`register_forward_hook` of PyTorch instead of a trace. Leave no hook behind.",
        judge_hook,
        hints=(
            "A hook is a function of `(module, inputs, output)`; put what you need into a list that stands outside of it.",
            "`handle = module.register_forward_hook(keep)`, then run `study.hf(ids)`, then `handle.remove()`.",
        ),
        answer="A trace is this, with the names of the model and without the clearing up.",
        expects="a function that returns hidden numbers",
        code=HOOK,
    ),
    "A1.5": Exercise(
        "Switch off neurons",
        ("medium", "essential", 8),
        "Write `without_neurons(study, request, layer, neurons)`: the logits of the first token of the reply in no-think mode, "
        "with the listed MLP neurons of a layer set to zero at every position.",
        judge_neurons,
        hints=(
            "The MLP neurons of a layer are the numbers that enter `study.nn.model.layers[layer].mlp.down_proj`.",
            "Write into them inside the trace: `...down_proj.input[:, :, neurons] = 0`. A new tensor with another name "
            "changes nothing.",
        ),
        answer="Editing is assigning to the model's own value, inside the trace.",
        expects="a function that returns the logits of every token",
        code=WITHOUT_NEURONS,
    ),
}
