"""Reading the inside of a model: live tensors of one forward, pooled values of many conversations.

It does not know where things are in a model (`rimkit.models.hooks`), nor what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from rimkit.data import UserError, check_known, nearest, truths
from rimkit.models.chat import Encoded, pad
from rimkit.models.device import shrinking
from rimkit.models.hooks import architecture, hooked, on_neurons, on_residual, on_z

if TYPE_CHECKING:
    from rimkit.models.study import StudyModel

INTERNALS = ("residual", "z", "neurons")


@contextmanager
def capture(
    study: StudyModel, kinds: Sequence[str] = INTERNALS, keep: Callable | None = None
) -> Iterator[dict[str, list]]:
    """Every forward in the block leaves its internals here: ``{kind: one live tensor per layer}``.
    ``residual``: ``n_layers + 1`` entries ``[batch, tokens, hidden]``; ``z``: ``[batch, tokens,
    heads, head_dim]`` per layer; ``neurons``: ``[batch, tokens, neurons]`` per layer. A later
    forward replaces them. Inside an intervention's block they are seen after it. With ``keep(kind,
    index, tensor)`` only what it returns stays, which saves the memory of the rest."""
    for kind in kinds:
        check_known("kind of internals", kind, INTERNALS)
    n_layers = architecture(study).n_layers
    found = {kind: [None] * (n_layers + (kind == "residual")) for kind in kinds}
    register, handles = {"residual": on_residual, "z": on_z, "neurons": on_neurons}, []
    for kind, tensors in found.items():
        for index in range(len(tensors)):
            seen = partial(keep, kind, index) if keep else None
            handles.append(register[kind](study, index, _keep(tensors, index, seen)))
    with hooked(handles):
        yield found


def _keep(tensors: list, index: int, seen: Callable | None) -> Callable:
    def keep(x):
        tensors[index] = seen(x) if seen else x
        return x if x.requires_grad else None  # a view reaches the output only if it is put there

    return keep


def forward(study: StudyModel, ids, mask, **kwargs):
    """One forward pass without the unembedding; returns the normalised final states. Padding on the
    right is invisible to a causal model, so its mask is left out: with it, transformers would form
    a mask of tokens x tokens for every conversation."""
    right = bool(mask[:, 0].all()) and bool((mask[:, 1:] <= mask[:, :-1]).all())
    seen = None if right else mask.to(study.device)
    return study.hf.model(input_ids=ids.to(study.device), attention_mask=seen, use_cache=False, **kwargs)[0]


def batches(study: StudyModel, items: Sequence[Encoded], run: Callable, batch_size: int = 64) -> Iterator[tuple]:
    """``(rows, run(ids, mask, spans))`` for batches of conversations of like length, right-padded.
    Out of memory the batch is halved, as often as it takes (`rimkit.models.device.shrinking`)."""
    if not items or batch_size < 1:
        raise UserError(f"there must be 1 prompt to read or more, not {len(items)}, {batch_size} at a time")

    def padded(rows: list[int]):
        return run(*pad([items[row] for row in rows], study.pad_id, side="right"))

    advice = "shorten the prompts, take a smaller model or a larger device ('rimkit plan' shows what fits)"
    lengths = [len(item.ids) for item in items]
    yield from shrinking(study, "reading", lengths, batch_size, padded, advice)


def in_order(study: StudyModel, items: Sequence[Encoded], run: Callable) -> np.ndarray:
    """What ``run`` finds in `batches` (tensors), along the last axis in the order of ``items``."""
    parts = list(batches(study, items, run))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return np.concatenate([found.float().cpu().numpy() for _, found in parts], -1)[..., order]


def stream(
    study: StudyModel, items: Sequence[Encoded], kinds: Sequence[str] = ("residual",),
    spans: Sequence[str] = ("last",), pool: str = "mean", batch_size: int = 64,
) -> Iterator[tuple[list[int], dict[tuple[str, str], torch.Tensor]]]:  # fmt: skip
    """Internals pooled over spans, batch by batch: ``(rows, {(kind, span): [layers, batch,
    ...]})``. ``rows`` are positions in ``items``; a conversation without a span has NaN there.
    ``pool`` is "mean", "max" or "size" (the largest absolute value) over the tokens of the span.
    Raises ``UserError`` for internals that are not finite (it names the layer)."""
    architecture(study)  # the one check that there is an inside to read
    check_known("pooling", pool, ("mean", "max", "size"))
    there = {span for item in items for span in item.spans}
    if items and not there & set(spans):
        raise UserError(f"no prompt has the span '{', '.join(spans)}'{nearest(spans[0], there)}")

    def run(ids, mask, places):
        inside = {span: within(places, span, ids.shape).to(study.device) for span in spans}

        def keep(kind, index, x):  # each layer is pooled as it comes, so that only one is in memory
            name = f"{study.name}: {kind} {index}"
            return {span: _pooled(x, where.to(x.device), pool, name) for span, where in inside.items()}

        with torch.inference_mode(), capture(study, kinds, keep) as found:
            forward(study, ids, mask)
        return {
            (kind, span): torch.stack([pooled[span].to(study.device) for pooled in found[kind]])
            for kind in kinds for span in spans
        }  # fmt: skip

    yield from batches(study, items, run, batch_size)


def read(
    study: StudyModel, items: Sequence[Encoded], kinds: Sequence[str] = ("residual",),
    spans: Sequence[str] = ("last",), pool: str = "mean", batch_size: int = 64,
) -> dict[tuple[str, str], np.ndarray]:  # fmt: skip
    """Internals of every conversation: ``{(kind, span): float32 [layers, prompts, ...]}``. Pooled
    as in `stream`; a kind of model may have a way of its own (`StudyModel.stream`)."""
    kept: dict[tuple[str, str], np.ndarray] = {}
    for rows, pooled in study.stream(items, kinds, spans, pool, batch_size):
        for key, values in pooled.items():
            if key not in kept:
                kept[key] = np.full((len(values), len(items), *values.shape[2:]), np.nan, np.float32)
            kept[key][:, rows] = values.float().cpu().numpy()
    return kept


def mean(study: StudyModel, items: Sequence[Encoded], kind: str, span="last", batch_size=64, pool="mean") -> np.ndarray:
    """The mean over conversations ``[layers, ...]`` of what `stream` pools, without missing spans.
    One batch is in memory at a time, however many conversations there are."""
    total, count = 0.0, 0
    for _, pooled in study.stream(items, (kind,), (span,), pool, batch_size):
        values = pooled[kind, span].double()
        there = ~values.isnan().flatten(2).any(-1).any(0)
        total, count = total + values[:, there].sum(1).cpu().numpy(), count + int(there.sum())
    return (total / count).astype(np.float32)


def within(places: list[dict], span: str, shape):
    """Mask ``[batch, tokens]`` of a span; a row without it is all False."""
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, spans in enumerate(places):
        mask[row, slice(*spans.get(span, (0, 0)))] = True
    return mask


def _pooled(x, where, pool: str, name: str):
    """``x`` ``[batch, tokens, ...]`` over the tokens in ``where``: ``[batch, ...]``, or NaN."""
    x = x.float()
    shape = where.shape + (1,) * (x.dim() - 2)
    if pool == "mean":
        share = where.float() / where.sum(1, keepdim=True).clamp(min=1)
        pooled = torch.einsum("bt,bt...->b...", share, x)
    else:
        x = x.abs() if pool == "size" else x
        pooled = x.masked_fill(~where.view(shape), float("-inf")).amax(1)
    missing = ~where.any(1)
    if not pooled[~missing].isfinite().all():
        raise UserError(f"{name} is not finite: load the model in float32 or bfloat16")
    pooled[missing] = float("nan")
    return pooled


def mean_difference(states: np.ndarray, positive: np.ndarray, negative: np.ndarray | None = None) -> np.ndarray:
    """The direction from the negative prompts (by default all others) to the positive ones.
    ``states``: ``[residuals, prompts, hidden]``, the sides: masks over prompts. Returns
    ``[residuals, hidden]``. Raises ``UserError`` where a side is empty."""
    positive = truths(pd.Series(positive)).to_numpy(dtype=bool)
    negative = ~positive if negative is None else np.asarray(negative, dtype=bool)
    if np.ndim(states) != 3 or not states.shape[1] == len(positive) == len(negative):
        raise UserError(f"{len(positive)} labels need states [residuals, {len(positive)}, hidden]")
    if not (positive.any() and negative.any()):
        raise UserError(f"a direction needs prompts on both sides: of {len(positive)} one side has none")
    return states[:, positive].mean(1) - states[:, negative].mean(1)
