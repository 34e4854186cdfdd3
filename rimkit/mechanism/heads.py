"""Claims C4 and C5 (sections 3.2 and B of the paper): which heads carry refusal, and what four rules say about it.

1. *paper*: on how many prompts the strongest attention of the first generated token moves from ``assistant`` (think
   mode) to the empty think span (no-think mode). The paper gives no number of heads to select and no threshold.
2. *attention*: how much of that token's attention goes to each span.
3. *direct*: what the head writes, along the direction in which the refusal logit difference grows.
4. *causal*: the change of the refusal logit difference without the head; and *gradient*, its estimate.

Select on the calibration split, report generated refusals on the evaluation split, against random sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rimkit.errors import UserError, nearest
from rimkit.mechanism.readout import Readout, at_last
from rimkit.mechanism.screens import attribution, head_effects, table
from rimkit.mechanism.sets import matched_sets
from rimkit.models.attention import reading_rows
from rimkit.models.chat import Encoded
from rimkit.models.internals import architecture, head_writes, logits_at_the_end
from rimkit.models.loading import StudyModel
from rimkit.models.reading import batches, capture, forward

SPANS = ("request", "im_end", "assistant", "think_open", "empty", "thought", "think_close")
RULES = {"paper": 1, "attention": 1, "direct": 1, "causal": -1, "gradient": -1}  # the sign of what is selected


def attention_by_span(study: StudyModel, items: Sequence[Encoded], batch_size: int = 64) -> dict[str, np.ndarray]:
    """Attention of the last token before the reply: the mass on each span, ``{span: [layers, heads, prompts]}``.

    A span that a conversation does not have gets 0. The key ``"strongest"`` holds the position with the most
    attention, counted in the conversation's own tokens.
    """
    import torch

    parts = architecture(study)
    shape = (parts.n_layers, parts.n_heads, len(items))
    found = {span: np.zeros(shape, dtype=np.float32) for span in SPANS} | {"strongest": np.zeros(shape, dtype=int)}

    def run(ids, mask, places):
        last = torch.tensor([[place["last"][0]] for place in places])
        with torch.inference_mode(), reading_rows(study, last) as rows:
            forward(study, ids, mask)
        attention = torch.stack([row[:, :, 0] for row in rows]).float().cpu()  # [layers, batch, heads, keys]
        mass = {span: torch.stack([attention[:, row, :, slice(*place.get(span, (0, 0)))].sum(-1)
                                   for row, place in enumerate(places)], -1) for span in SPANS}  # fmt: skip
        return mass | {"strongest": attention.argmax(-1).transpose(1, 2)}

    for rows, mass in batches(study, items, batch_size, run):
        for span, values in mass.items():
            found[span][:, :, rows] = values.numpy()
    return found


def attention_row(study: StudyModel, item: Encoded) -> np.ndarray:
    """Attention of the last token before the reply over one conversation: ``[layers, heads, tokens]``."""
    import torch

    ids = torch.tensor([item.ids], device=study.device)
    with torch.inference_mode(), reading_rows(study, torch.tensor([[item.spans["last"][0]]])) as rows:
        forward(study, ids, torch.ones_like(ids))
    return torch.stack([row[0, :, 0] for row in rows]).float().cpu().numpy()


def moved_attention(study: StudyModel, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """The paper's rule: bool ``[layers, heads, prompts]``, whether the strongest attention moves between the modes.

    From ``assistant`` in think mode to the empty think span in no-think mode, in the row of the last prompt token,
    from which the first token is generated. (In think mode that token opens the thought, in no-think mode it begins
    the reply: the rule compares two different events.)
    """
    inside = []
    for mode, span in (("think", "assistant"), ("no-think", "empty")):
        items = [study.chat.encode(text, mode) for text in texts]
        if not all(span in item.spans for item in items):
            raise UserError(f"{study.name}: its {mode} prompts have no span '{span}', which the paper's rule needs")
        strongest = attention_by_span(study, items, batch_size)["strongest"]
        start, end = (np.array([item.spans[span][side] for item in items]) for side in (0, 1))
        inside.append((strongest >= start) & (strongest < end))
    return inside[0] & inside[1]


def direct_effects(study: StudyModel, items: Sequence[Encoded], read: Readout, batch_size: int = 64) -> np.ndarray:
    """What each head writes at the last token, along the gradient of the refusal logit difference there.

    ``[layers, heads, prompts]``: positive where the head, directly, speaks for refusal (final norm linearised).
    """
    import torch

    parts = architecture(study)
    found = np.zeros((parts.n_layers, parts.n_heads, len(items)), dtype=np.float32)

    def run(ids, mask, spans):
        with torch.no_grad(), capture(study, ["residual", "z"]) as inside:
            forward(study, ids, mask)
            end = at_last(inside["residual"][-1], spans)
            z = [at_last(values, spans) for values in inside["z"]]
        with torch.enable_grad():
            end = end.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(read(logits_at_the_end(study, end)).sum(), end)
        with torch.no_grad():
            return torch.stack([head_writes(study, layer, z[layer]) @ gradient[..., None] for layer in range(len(z))])

    for rows, values in batches(study, items, batch_size, run):
        found[:, :, rows] = values[..., 0].transpose(1, 2).float().cpu().numpy()
    return found


def head_table(
    study: StudyModel,
    texts: Sequence[str],
    contexts: Mapping[str, Sequence[Encoded]],
    read: Readout,
    mode: str = "no-think",
    batch_size: int = 64,
) -> pd.DataFrame:
    """All scores of all heads, one row each, means over prompts.

    ``texts``: requests, for the paper's rule; ``contexts``: for both modes, conversations about such requests up to
    where the reply begins (in think mode with a thought), for all other scores.
    Columns: ``layer, head``; ``paper`` (share of requests); ``attention`` (mass on the empty think span, no-think
    mode); ``direct``, ``causal`` and ``gradient`` (units of the logit difference, in ``mode``); and per span ``to
    <span>`` (attention in ``mode``) and ``change to <span>`` (no-think minus think).
    """
    items = contexts[mode]
    mass = {name: attention_by_span(study, rows, batch_size) for name, rows in contexts.items()}
    scores = {
        "paper": moved_attention(study, texts, batch_size).mean(-1),
        "attention": mass["no-think"]["empty"].mean(-1),
        "direct": direct_effects(study, items, read, batch_size).mean(-1),
        "causal": head_effects(study, items, read, batch_size).mean(-1),
        "gradient": attribution(study, items, read, batch_size)[0],
    }
    scores |= {f"to {span}": mass[mode][span].mean(-1) for span in SPANS}
    scores |= {f"change to {span}": mass["no-think"][span].mean(-1) - mass["think"][span].mean(-1) for span in SPANS}
    return table(study, **scores)


def select(table: pd.DataFrame, rule: str, k: int) -> list[tuple[int, int]]:
    """The ``k`` heads that a rule of `RULES` ranks first (ties: lower layer, then lower head).

    Fewer where fewer have a score of the rule's sign: a head that never shows the paper's pattern, or whose loss raises
    refusal, is no refusal head by that rule.
    """
    if rule not in RULES:
        raise UserError(f"unknown rule '{rule}' (known: {', '.join(RULES)}){nearest(rule, RULES)}")
    if not 1 <= k <= len(table):
        raise UserError(f"k must be from 1 to {len(table)} heads, not {k}")
    score = RULES[rule] * table[rule]
    order = (-score[score > 0]).sort_values(kind="stable").index[:k]
    return [(int(layer), int(head)) for layer, head in table.loc[order, ["layer", "head"]].to_numpy()]


def random_sets(
    study: StudyModel, heads: Sequence[tuple[int, int]], n: int = 40, seed: int = 0
) -> list[list[tuple[int, int]]]:
    """``n`` sets of other heads with as many in every layer as ``heads`` has, drawn without replacement per set.

    Where a layer has too few other heads, the set's own are drawn from as well.
    """
    return matched_sets(heads, architecture(study).n_heads, n, seed)
