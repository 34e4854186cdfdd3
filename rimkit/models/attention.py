"""Attention under sdpa: reading chosen rows without the whole matrix, and cutting queries off from keys.

Inside a block the model runs its own attention function through one of ours, which can see queries and keys (after
rotary embedding) and change the mask. Nothing of size tokens x tokens is formed that the model does not form itself,
except that a cut needs an explicit mask.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rimkit.errors import UserError
from rimkit.models.internals import architecture
from rimkit.models.loading import StudyModel

PREFIX = "rimkit_"


@contextmanager
def reading_rows(study: StudyModel, queries) -> Iterator[list]:
    """Every forward in the block leaves attention rows here: one tensor ``[batch, heads, rows, keys]`` per layer.

    ``queries``: LongTensor ``[batch, rows]`` of positions among the tokens of the forward. Rows sum to 1 and equal
    those of eager attention with ``output_attentions``.
    """
    found = [None] * architecture(study).n_layers

    def look(module, query, key, mask, scaling, softcap):
        found[module.layer_idx] = _rows(module, query, key, mask, scaling, softcap, queries.to(query.device))
        return mask

    with _attending(study, look):
        yield found


@contextmanager
def cut_attention(
    study: StudyModel,
    queries: Sequence[tuple[int, int | None]],
    keys: Sequence[tuple[int, int]],
    heads: Iterable[tuple[int, int]] | None = None,
) -> Iterator[None]:
    """Heads (all by default) cannot look from a range of queries at a range of keys; the rest of the row grows instead.

    ``queries`` and ``keys``: one half-open range of positions per row of the batch, in the padded row; a query range
    that ends with None goes on through everything that is generated. A token always sees itself.
    """
    by_layer = heads_by_layer(study, heads) if heads is not None else None

    def look(module, query, key, mask, scaling, softcap):
        chosen = slice(None) if by_layer is None else by_layer.get(module.layer_idx)
        if chosen is None:
            return mask
        cut = _cut(query, key, queries, keys)
        if not cut.any():
            return mask
        mask = _explicit(query, key, mask).expand(-1, query.shape[1], -1, -1).clone()
        value = float("-inf") if mask.is_floating_point() else False
        mask[:, chosen] = mask[:, chosen].masked_fill(cut[:, None], value)
        return mask

    with _attending(study, look):
        yield


def heads_by_layer(study: StudyModel, heads: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """``{layer: heads}``; raises ``UserError`` for an empty set and for a layer or head that does not exist."""
    parts, found = architecture(study), {}
    for layer, head in heads:
        check_index("layer", layer, parts.n_layers)
        check_index("head", head, parts.n_heads)
        found.setdefault(int(layer), []).append(int(head))
    if not found:
        raise UserError("the set of heads is empty: give (layer, head) pairs")
    return found


def check_index(what: str, index: int, count: int) -> None:
    """Raise a ``UserError`` unless ``0 <= index < count``."""
    if not 0 <= index < count:
        raise UserError(f"there is no {what} {index}: they go from 0 to {count - 1}")


# -- one attention function for all of it ------------------------------------------------------------------

_LOOKS: dict[int, list[Callable]] = {}


@contextmanager
def _attending(study: StudyModel, look: Callable) -> Iterator[None]:
    """Let ``look(module, query, key, mask, scaling, softcap)`` see every attention call and return its mask."""
    architecture(study)  # the one check of the family
    config = study.hf.config
    before = config._attn_implementation
    looks = _LOOKS.setdefault(id(config), [])
    looks.append(look)
    config._attn_implementation = _registered(before)
    try:
        yield
    finally:
        config._attn_implementation = before
        looks.remove(look)
        if not looks:
            del _LOOKS[id(config)]


def _registered(base: str) -> str:
    """The name under which our attention function for the implementation ``base`` is known to transformers."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if base.startswith(PREFIX):
        return base
    if base not in ("sdpa", "eager"):
        raise UserError(f"attention can be read under sdpa and eager, not under '{base}': load the model with sdpa")
    name = PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():

        def attend(module, query, key, value, attention_mask, **kwargs):
            for look in list(_LOOKS.get(id(module.config), ())):
                attention_mask = look(module, query, key, attention_mask, kwargs.get("scaling"), kwargs.get("softcap"))
            function = ALL_ATTENTION_FUNCTIONS.get(base) or sys.modules[type(module).__module__].eager_attention_forward
            return function(module, query, key, value, attention_mask, **kwargs)

        ALL_ATTENTION_FUNCTIONS.register(name, attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _positions(query, key):
    """Positions of the queries and of the keys; with a cache the queries are the last of the keys."""
    import torch

    n_keys = key.shape[2]
    at = torch.arange(n_keys, device=query.device)
    return at[n_keys - query.shape[2] :], at


def _explicit(query, key, mask):
    """The mask ``[batch or 1, heads or 1, queries, keys]``, the causal one where there is none."""
    if mask is None:
        at, keys = _positions(query, key)
        return (keys <= at[:, None])[None, None].expand(query.shape[0], 1, -1, -1)
    return mask[..., : key.shape[2]]


def _cut(query, key, queries, keys):
    """Bool ``[batch, queries, keys]``: the pairs that are cut."""
    import torch

    at, all_keys = _positions(query, key)

    def inside(positions, ranges):
        start = torch.tensor([start for start, _ in ranges], device=positions.device)
        end = torch.tensor([sys.maxsize if end is None else end for _, end in ranges], device=positions.device)
        return (positions >= start[:, None]) & (positions < end[:, None])

    pairs = inside(at, queries)[:, :, None] & inside(all_keys, keys)[:, None, :]
    return pairs & (at[:, None] != all_keys)


def _rows(module, query, key, mask, scaling, softcap, queries):
    """Attention weights of the chosen queries, in float32 as transformers' eager attention computes them."""
    import torch

    batch, n_heads, _, width = query.shape
    at, all_keys = _positions(query, key)
    index = queries[:, None, :, None].expand(batch, n_heads, -1, width)
    chosen = query.gather(2, index).unflatten(1, (key.shape[1], -1))  # [batch, kv heads, group, rows, width]
    scores = (chosen @ key[:, :, None].transpose(-1, -2)).flatten(1, 2) * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if mask is None:
        scores = scores.masked_fill((all_keys > at[queries][..., None])[:, None], float("-inf"))
    else:
        mask = mask[..., : key.shape[2]]
        mask = mask.expand(batch, -1, -1, -1)
        mask = mask.gather(2, queries[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
