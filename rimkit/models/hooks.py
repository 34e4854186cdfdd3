"""The inside of a model: residual stream, head outputs z, MLP neurons, attention, with hooks.

This file knows the names of a layer's modules; .github/CONTRIBUTING.md says how to add a family of
models. The numbering is that of the field: *residual* ``i`` is the stream before layer ``i``
(``n_layers``: after the last one, before the final norm); *z* is what a head writes before
``o_proj`` mixes the heads; a *neuron* is one input of ``down_proj``. In a mixture of experts, neuron
``expert * width + j`` is neuron ``j`` of that expert, 0 at tokens that are not sent to it.

Attention is read and cut under sdpa: inside a block the model runs its own attention function
through one of ours, which sees queries and keys (after rotary embedding) and can change the mask.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rimkit.data import UserError, check_index, pairs_of

if TYPE_CHECKING:
    from rimkit.models.study import StudyModel

FAMILIES = ("qwen3", "qwen2", "llama", "mistral", "phi3", "olmo2", "gemma2", "qwen3_moe", "olmoe")
NORMALISED_AFTER = ("olmo2", "gemma2")  # families that normalise what attention adds
GAIN_ABOVE_ONE = ("gemma2",)  # of these, families whose norms multiply by 1 + weight
LAYERS = "model.layers"
INPUT_OF = {"z": "self_attn.o_proj", "neurons": "mlp.down_proj"}  # the module that takes it
PREFIX = "rimkit_"  # of the names of attention functions


@dataclass(frozen=True)
class Architecture:
    """What a model consists of; ``n_neurons``: of a layer, all ``n_experts`` (or 0) together."""

    layers: tuple
    n_heads: int
    head_dim: int
    n_neurons: int
    n_experts: int
    hidden_size: int

    @property
    def n_layers(self) -> int:
        return len(self.layers)


def why_closed(hf) -> str:
    """Why the inside of this model cannot be read; empty if it can."""
    family = hf.config.get_text_config().model_type
    if family in FAMILIES:
        return ""
    return f"the inside of the architecture '{family}' is not known (known: {', '.join(FAMILIES)})"


@contextmanager
def untraced(hf) -> Iterator[None]:
    """Without what nnsight wraps around every module's forward, which costs a small model some
    percent. For code that is not inside a trace. What accelerate wraps stays."""

    def is_wrapped(module) -> bool:
        forward = type(module.__dict__.get("forward")).__module__
        return forward.startswith("nnsight") and "_hf_hook" not in module.__dict__

    wrapped = {module: module.__dict__.pop("forward") for module in hf.modules() if is_wrapped(module)}
    try:
        yield
    finally:
        for module, forward in wrapped.items():
            module.__dict__["forward"] = forward


def architecture(study: StudyModel) -> Architecture:
    """The parts of the model; raises ``UserError`` for an architecture outside `FAMILIES`."""
    if reason := why_closed(study.hf):
        raise UserError(f"{study.name}: {reason}; chapters 00 to 02 need only its replies")
    config, layers = study.hf.config, tuple(study.hf.model.layers)
    experts = next((layer.mlp.experts for layer in layers if hasattr(layer.mlp, "experts")), None)
    n_experts = experts.num_experts if experts is not None else 0
    width = experts.down_proj.shape[-1] * n_experts if n_experts else layers[0].mlp.down_proj.in_features
    n_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    return Architecture(layers, n_heads, head_dim, width, n_experts, config.hidden_size)


def logits_at_the_end(study: StudyModel, residual, *, held: bool = False) -> torch.Tensor:
    """Logits ``[..., vocabulary]`` of final residuals ``[..., hidden]``. ``held``: a gradient takes
    the final norm's scale as it is, so that along it the parts of a state sum to the whole."""
    length = residual.norm(dim=-1, keepdim=True)  # which a norm forgets; put back, its scale stays
    logits = study.hf.lm_head(study.hf.model.norm(residual) * (length / length.detach() if held else 1))
    cap = getattr(study.hf.config, "final_logit_softcapping", None)
    return cap * (logits / cap).tanh() if cap else logits


def head_writes(study: StudyModel, layer: int, z: torch.Tensor) -> torch.Tensor:
    """What each head adds to the stream, ``[..., heads, hidden]``, given z ``[..., heads,
    head_dim]``. The sum over heads is what attention adds (less a bias of ``o_proj``). Where the
    architecture normalises that sum first (OLMo-2, Gemma-2), each head gets its share."""
    parts, block = architecture(study), architecture(study).layers[layer]
    weight = _plain(study, block.self_attn.o_proj.weight).unflatten(1, (parts.n_heads, -1))
    writes = torch.einsum("...hd,ohd->...ho", z, weight)
    if study.hf.config.model_type not in NORMALISED_AFTER:
        return writes
    norm, total = block.post_attention_layernorm, writes.sum(-2, keepdim=True)
    scale = (total.float().pow(2).mean(-1, keepdim=True) + getattr(norm, "variance_epsilon", 1e-6)).rsqrt()
    gain = norm.weight + (study.hf.config.model_type in GAIN_ABOVE_ONE)
    return writes * scale.to(writes.dtype) * gain


def neuron_weights(study: StudyModel, layer: int) -> list[tuple[torch.nn.Parameter, int]]:
    """The weights by which neurons of a dense, gated layer read and write, with their axis."""
    mlp = architecture(study).layers[layer].mlp
    return [(mlp.gate_proj.weight, 0), (mlp.up_proj.weight, 0), (mlp.down_proj.weight, 1)]


def _plain(study: StudyModel, weight: torch.Tensor) -> torch.Tensor:
    if not weight.is_floating_point():
        problem = "weights that are packed in 4 bits cannot be taken apart: load it without +4bit"
        raise UserError(f"{study.name}: {problem}")
    return weight


@contextmanager
def hooked(handles: Sequence) -> Iterator[None]:
    """Remove hooks at the end of the block, the last first, since some put back what they found."""
    try:
        yield
    finally:
        for handle in reversed(handles):
            handle.remove()


def on_residual(study: StudyModel, index: int, change: Callable):
    """Replace residual ``index`` ``[batch, tokens, hidden]`` by what ``change`` makes of it (None:
    it stays); so do `on_z` and `on_neurons`. Returns a handle."""
    layers = architecture(study).layers
    if index < len(layers):
        return _on_input(layers[index], change)
    return layers[-1].register_forward_hook(lambda module, args, output: change(output))


def on_z(study: StudyModel, layer: int, change: Callable):
    """Call ``change(z)`` on the head outputs ``[batch, tokens, heads, head_dim]`` of a layer."""
    parts = architecture(study)

    def by_head(x):
        z = change(x.unflatten(-1, (parts.n_heads, -1)))
        return None if z is None else z.flatten(-2)

    return _on_input(parts.layers[layer].self_attn.o_proj, by_head)


def on_neurons(study: StudyModel, layer: int, change: Callable):
    """Call ``change(a)`` on the neurons ``[batch, tokens, neurons]`` of a layer."""
    mlp = architecture(study).layers[layer].mlp
    return _ExpertHook(mlp, change) if hasattr(mlp, "experts") else _on_input(mlp.down_proj, change)


def _on_input(module, change: Callable):
    def before(module, args):
        x = change(args[0])
        return None if x is None else (x, *args[1:])

    return module.register_forward_pre_hook(before)


@contextmanager
def given_z(study: StudyModel, layer: int, z: torch.Tensor) -> Iterator[None]:
    """In the block a layer's heads give ``z`` ``[batch, tokens, heads, head_dim]``."""
    attention = architecture(study).layers[layer].self_attn
    before = vars(attention).get("forward")
    attention.forward = lambda *args, **kwargs: (attention.o_proj(z.flatten(-2)), None)
    try:
        yield
    finally:
        del attention.forward
        if before is not None:
            attention.forward = before


class _ExpertHook:
    """Neurons of a mixture of experts, which have no module of their own, as one wide layer. In
    transformers' ``batched_mm`` form row ``t * k + i`` belongs to the ``i``-th expert of token
    ``t``; the activation of each row is laid out at its expert's place, changed, and read back."""

    def __init__(self, mlp, change: Callable):
        self.experts, self.change = mlp.experts, change
        self.gate, self.form = self.experts._apply_gate, self.experts.config._experts_implementation
        self.experts.config._experts_implementation = "batched_mm"
        self.experts._apply_gate = self._gated
        route = self.experts.register_forward_pre_hook(self._route, with_kwargs=True)
        self.hooks = [mlp.register_forward_pre_hook(self._shape), route]

    def remove(self) -> None:
        if vars(self.experts).get("_apply_gate") == self._gated:
            self.experts._apply_gate = self.gate
        self.experts.config._experts_implementation = self.form
        for hook in self.hooks:
            hook.remove()

    def _shape(self, module, args) -> None:
        self.tokens = args[0].shape[:-1]

    def _route(self, module, args, kwargs) -> None:
        self.ids = args[1] if len(args) > 1 else kwargs["top_k_index"]

    def _gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        acts = self.gate(gate_up)
        width = acts.shape[-1]
        rows = acts.view(*self.ids.shape, width)  # [tokens, k, width]
        where = self.ids[..., None].expand_as(rows)
        wide = rows.new_zeros(len(rows), self.experts.num_experts, width).scatter(1, where, rows)
        changed = self.change(wide.view(*self.tokens, -1))
        if changed is None:
            return acts
        return changed.reshape_as(wide).gather(1, where).reshape_as(acts)


@contextmanager
def reading_rows(study: StudyModel, queries) -> Iterator[list]:
    """Every forward in the block leaves attention here: ``[batch, heads, rows, keys]`` per layer.
    ``queries``: LongTensor ``[batch, rows]`` of positions. Rows equal those of eager attention."""
    found = [None] * architecture(study).n_layers

    def look(module, query, key, mask, scaling, softcap):
        found[module.layer_idx] = _rows(query, key, mask, scaling, softcap, queries.to(query.device))
        return mask

    with _attending(study, look):
        yield found


@contextmanager
def cut_attention(
    study: StudyModel, queries: Sequence[tuple[int, int | None]], keys: Sequence[tuple[int, int]],
    heads: Iterable[tuple[int, int]] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Heads (all by default) cannot look from a range of queries at a range of keys; the rest of
    the row grows. ``queries, keys``: a half-open range per row of the batch, in the padded row; a
    query range that ends with None goes through all that is generated. A token sees itself."""
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
    """``{layer: heads}``; ``UserError`` for an empty set or a layer or head that does not exist."""
    parts, found = architecture(study), {}
    for layer, head in pairs_of(heads, "head"):
        check_index("layer", layer, parts.n_layers)
        check_index("head", head, parts.n_heads)
        found.setdefault(layer, []).append(head)
    if not found:
        raise UserError("the set of heads is empty: give (layer, head) pairs")
    return found


_LOOKS: dict[int, list[Callable]] = {}  # by configuration: who looks at the model's attention


@contextmanager
def _attending(study: StudyModel, look: Callable) -> Iterator[None]:
    """Let ``look(module, query, key, mask, scaling, softcap)`` see attention, and give its mask."""
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
    """The name under which transformers knows our attention function for ``base``."""
    if base.startswith(PREFIX):
        return base
    if base not in ("sdpa", "eager"):
        raise UserError(f"attention is read under sdpa and eager, not under '{base}': load it with sdpa")
    name = PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():

        def attend(module, query, key, value, mask, **kwargs):
            for look in list(_LOOKS.get(id(module.config), ())):
                mask = look(module, query, key, mask, kwargs.get("scaling"), kwargs.get("softcap"))
            eager = sys.modules[type(module).__module__].eager_attention_forward
            function = ALL_ATTENTION_FUNCTIONS.get(base) or eager
            return function(module, query, key, value, mask, **kwargs)

        ALL_ATTENTION_FUNCTIONS.register(name, attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _positions(query, key):
    """Positions of queries and keys; with a cache the queries are the last of the keys."""
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
    at, all_keys = _positions(query, key)

    def inside(positions, ranges):
        start = torch.tensor([start for start, _ in ranges], device=positions.device)
        end = torch.tensor([sys.maxsize if end is None else end for _, end in ranges], device=positions.device)
        return (positions >= start[:, None]) & (positions < end[:, None])

    pairs = inside(at, queries)[:, :, None] & inside(all_keys, keys)[:, None, :]
    return pairs & (at[:, None] != all_keys)


def _rows(query, key, mask, scaling, softcap, queries):
    """Attention weights of the chosen queries, as transformers' eager attention has them."""
    batch, n_heads, _, width = query.shape
    at, all_keys = _positions(query, key)
    index = queries[:, None, :, None].expand(batch, n_heads, -1, width)
    chosen = query.gather(2, index).unflatten(1, (key.shape[1], -1))  # [batch, kv heads, group, rows, …]
    scores = (chosen @ key[:, :, None].transpose(-1, -2)).flatten(1, 2)
    scores = scores * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if mask is None:
        scores = scores.masked_fill((all_keys > at[queries][..., None])[:, None], float("-inf"))
    else:
        mask = mask[..., : key.shape[2]].expand(batch, -1, -1, -1)
        mask = mask.gather(2, queries[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
