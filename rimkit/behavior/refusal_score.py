"""Refusal as one number, and what happens to it without one head or neuron.

The refusal logit difference is read at the last token before the reply: the log probability ratio
of the words that begin refusals to those that begin fulfilments, as they are in the model's own
replies. The exact screen computes each prompt once, and then, for the heads of layer ``l``, only
layers ``l`` and above. The estimate is gradient x activation (attribution patching; Nanda 2023).
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from rimkit.behavior.judges import is_true
from rimkit.data import UserError, truths
from rimkit.models.activations import batches, capture, forward, in_order
from rimkit.models.chat import Encoded
from rimkit.models.hooks import architecture, given_z, hooked, logits_at_the_end, on_residual
from rimkit.models.interventions import ablate_per_row
from rimkit.models.study import StudyModel

COVERED = 0.9  # the share of replies whose first words make up a side of the readout
ROWS = 256  # rows of one forward pass of the screen: enough to keep a processor busy


def contexts(study: StudyModel, judged: pd.DataFrame, prompts: pd.DataFrame) -> list[Encoded]:
    """One conversation per judged reply, up to it: in think mode with the model's own thought."""
    texts = prompts.set_index("prompt_id")["text"].loc[judged["prompt_id"]]
    thoughts = judged["thought"].fillna("").astype(object).where(judged["mode"] == "think", None)
    rows = zip(texts, judged["mode"], thoughts, strict=True)
    return [study.chat.encode(text, mode, thought=thought) for text, mode, thought in rows]


@dataclass(frozen=True)
class Readout:
    """First tokens of refusals and of fulfilments."""

    refusal: tuple[int, ...]
    fulfilment: tuple[int, ...]

    def __call__(self, logits):
        """The logit difference of logits ``[..., vocabulary]``: above 0, refusing is likelier."""
        refusal, fulfilment = (logits[..., list(side)] for side in (self.refusal, self.fulfilment))
        return refusal.logsumexp(-1) - fulfilment.logsumexp(-1)


def readout(study: StudyModel, judged: pd.DataFrame) -> Readout:
    """The readout of a model, from replies that refuse and coherent ones that do not; unjudged ones
    are neither. ``judged`` should hold harmful and harmless requests. Raises ``UserError`` where
    all or none were refused, or refusals and fulfilments begin alike."""
    refused, coherent = (truths(judged[name]) for name in ("refused", "coherent"))
    refused, fulfilled = is_true(refused), is_true(~refused & coherent)
    for name, there in (("refused", refused), ("fulfilled", fulfilled)):
        if not there.any():
            raise UserError(f"no request was {name}: refusal against fulfilment is undefined; take other prompts")
    sides = [_first_tokens(study, judged.loc[there, "reply"]) for there in (refused, fulfilled)]
    one, other = (tuple(t for t in side if not all(t in both for both in sides)) for side in sides)
    if not one or not other:
        raise UserError("refusals and fulfilments begin with the same words: there is no first token to read")
    return Readout(one, other)


def refusal_scores(study: StudyModel, items: Sequence[Encoded], read: Readout) -> list[float]:
    """The refusal logit difference at the end of every context."""

    def run(ids, mask, spans):
        with torch.inference_mode():
            return read(logits_at_the_end(study, at_last(forward_states(study, ids, mask), spans)))

    return in_order(study, items, run).tolist()


def forward_states(study: StudyModel, ids, mask):
    """Residuals ``[batch, tokens, hidden]`` after the last layer, before the final norm."""
    with capture(study, ["residual"]) as found:
        forward(study, ids, mask)
    return found["residual"][-1]


def at_last(states, spans: Sequence[dict]):
    """``[batch, hidden]``: the states at each row's last token before the reply."""
    rows = torch.arange(len(states), device=states.device)
    return states[rows, torch.tensor([place["last"][0] for place in spans], device=states.device)]


def _first_tokens(study: StudyModel, replies: pd.Series) -> list[int]:
    """The commonest first tokens, as many as begin `COVERED` of the replies."""
    ids = study.tokenizer(replies.str.strip().tolist(), add_special_tokens=False)["input_ids"]
    counts, chosen = Counter(tokens[0] for tokens in ids if tokens), []
    for token, _ in counts.most_common():
        chosen.append(token)
        if sum(counts[token] for token in chosen) >= COVERED * counts.total():
            break
    return chosen


def head_effects(study: StudyModel, items: Sequence[Encoded], read: Readout) -> np.ndarray:
    """Exact change of the difference with one head set to zero: ``[layers, heads, prompts]``."""
    parts = architecture(study)
    everyone = list(np.ndindex(parts.n_layers, parts.n_heads))

    def run(ids, mask, spans):
        with torch.inference_mode():
            arguments = [{}] * parts.n_layers
            with capture(study, ["residual", "z"]) as clean, hooked(_arguments(parts.layers, arguments)):
                forward(study, ids, mask)
            clean = {kind: list(tensors) for kind, tensors in clean.items()}
            base = read(logits_at_the_end(study, at_last(clean["residual"][-1], spans)))
            step = max(1, ROWS // len(ids))
            groups = [everyone[start : start + step] for start in range(0, len(everyone), step)]
            known = (clean, arguments, spans, read)
            without = torch.cat([_without(study, heads, *known) for heads in groups])
        return (without - base).view(parts.n_layers, parts.n_heads, -1)

    return in_order(study, items, run)


def _without(study: StudyModel, heads: list[tuple[int, int]], clean: dict, arguments: list, spans, read: Readout):
    """The readout without each of these heads, ``[heads, batch]``. Copies of the batch join at the
    layer of their head: every layer is run once, and none below the lowest, whose z is known."""
    parts, batch, lowest = architecture(study), len(spans), heads[0][0]
    states = clean["residual"][0][:0]
    for index in range(lowest, parts.n_layers):
        joining = [head for head in heads if head[0] == index]
        rows = [[]] * len(states) + [[head] for head in joining for _ in range(batch)]
        states = torch.cat([states, clean["residual"][index].repeat(len(joining), 1, 1)])
        with ExitStack() as stack:
            if index == lowest:
                z = clean["z"][index].repeat(len(joining), 1, 1, 1)
                stack.enter_context(given_z(study, index, z))
            if joining:
                stack.enter_context(ablate_per_row(study, rows))
            inputs = _repeated(arguments[index], batch, len(states) // batch)
            out = parts.layers[index](states, **inputs)
        states = out[0] if isinstance(out, tuple) else out
    last = at_last(states, list(spans) * len(heads))
    return read(logits_at_the_end(study, last)).view(len(heads), batch)


def _arguments(layers, kept: list[dict]) -> list:
    """Hooks that keep the keyword arguments of every layer, one dictionary per layer."""

    def keep(index: int, _, args, kwargs: dict) -> None:
        kept[index] = {name: value for name, value in kwargs.items() if name != "hidden_states"}

    keeping = {layer: partial(keep, index) for index, layer in enumerate(layers)}
    return [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer, hook in keeping.items()]


def _repeated(value, batch: int, copies: int):
    """Arguments for ``copies`` of the batch: its tensors repeated, all else as it is."""
    if isinstance(value, dict):
        return {name: _repeated(part, batch, copies) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_repeated(part, batch, copies) for part in value)
    if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == batch and batch > 1:
        return value.repeat(copies, *[1] * (value.dim() - 1))
    return value


def attribution(study: StudyModel, items: Sequence[Encoded], read: Readout) -> tuple[np.ndarray, np.ndarray]:
    """Estimated change of the refusal logit difference without each head and neuron, mean over
    prompts: minus gradient x activation of all tokens. ``([layers, heads], [layers, neurons])``."""
    heads, neurons = 0.0, 0.0

    def run(ids, mask, spans):
        start = hooked([on_residual(study, 0, lambda x: x.detach().requires_grad_())])
        with torch.enable_grad(), start, capture(study, ["residual", "z", "neurons"]) as found:
            forward(study, ids, mask)
            score = read(logits_at_the_end(study, at_last(found["residual"][-1], spans))).sum()
            z, acts = found["z"], found["neurons"]
            gradients = torch.autograd.grad(score, [*z, *acts])
        products = [-(x * g).detach() for x, g in zip([*z, *acts], gradients, strict=True)]
        of_heads = torch.stack([product.sum((0, 1, 3)) for product in products[: len(z)]])
        of_neurons = torch.stack([product.sum((0, 1)) for product in products[len(z) :]])
        return of_heads.double().cpu().numpy(), of_neurons.double().cpu().numpy()

    frozen = [parameter for parameter in study.hf.parameters() if parameter.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for _, (of_heads, of_neurons) in batches(study, items, run):
            heads, neurons = heads + of_heads, neurons + of_neurons
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    return heads / len(items), neurons / len(items)


def table(study: StudyModel, **columns: np.ndarray) -> pd.DataFrame:
    """One row per head with columns ``layer, head`` and one for every array ``[layers, heads]``."""
    parts = architecture(study)
    layer, head = np.indices((parts.n_layers, parts.n_heads)).reshape(2, -1)
    flat = {name: values.reshape(-1) for name, values in columns.items()}
    return pd.DataFrame({"layer": layer, "head": head} | flat)
