"""The inside of a model: where the residual stream, head outputs z, MLP neurons and attention live.

This is the only module that knows module names. The numbering is that of the field: *residual* ``i`` is the
stream before layer ``i`` (0: the embeddings, ``n_layers``: after the last layer, before the final norm); *z* is what a
head writes before ``o_proj`` mixes the heads; a *neuron* is one input of ``down_proj``, which in a gated MLP is the
product of gate and value. In a mixture of experts, neuron ``expert * width + j`` is neuron ``j`` of that expert, 0 at
tokens that are not sent to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rimkit.errors import UserError, nearest
from rimkit.models.chat import Encoded, pad

if TYPE_CHECKING:
    import torch

    from rimkit.models.loading import StudyModel

FAMILIES = ("qwen3", "qwen2", "llama", "mistral", "phi3", "olmo2", "gemma2", "qwen3_moe", "olmoe")
KINDS = ("residual", "z", "neurons")


@dataclass(frozen=True)
class Architecture:
    """What a model consists of. ``n_neurons`` is per layer (all experts together), ``n_experts`` 0 if dense."""

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


def architecture(study: StudyModel) -> Architecture:
    """The parts of the model; raises ``UserError`` for an architecture outside `FAMILIES`."""
    reason = why_closed(study.hf)
    if reason:
        raise UserError(f"{study.name}: {reason}; chapters 00 to 02 need only its replies")
    config, layers = study.hf.config, tuple(study.hf.model.layers)
    experts = next((layer.mlp.experts for layer in layers if hasattr(layer.mlp, "experts")), None)
    n_experts = experts.num_experts if experts is not None else 0
    width = experts.down_proj.shape[-1] * n_experts if n_experts else layers[0].mlp.down_proj.in_features
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Architecture(layers, config.num_attention_heads, head_dim, width, n_experts, config.hidden_size)


def logits_at_the_end(study: StudyModel, residual: torch.Tensor) -> torch.Tensor:
    """Logits ``[..., vocabulary]`` of final residuals ``[..., hidden]``: final norm, unembedding, Gemma's soft cap."""
    logits = study.hf.lm_head(study.hf.model.norm(residual))
    cap = getattr(study.hf.config, "final_logit_softcapping", None)
    return cap * (logits / cap).tanh() if cap else logits


# -- hooks -------------------------------------------------------------------------------------------------


@contextmanager
def hooked(handles: Sequence) -> Iterator[None]:
    """Remove hooks at the end of the block, whatever happens in it."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def on_residual(study: StudyModel, index: int, change: Callable):
    """Call ``change(x)`` on residual ``index`` ``[batch, tokens, hidden]``; what it returns (not None) replaces it."""
    layers = architecture(study).layers
    if index == 0:

        def before(module, args, kwargs):
            x = change(args[0] if args else kwargs["hidden_states"])
            if x is None:
                return None
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        return layers[0].register_forward_pre_hook(before, with_kwargs=True)

    def after(module, args, output):
        x = change(output[0] if isinstance(output, tuple) else output)
        if x is None:
            return None
        return (x, *output[1:]) if isinstance(output, tuple) else x

    return layers[index - 1].register_forward_hook(after)


def on_z(study: StudyModel, layer: int, change: Callable):
    """Call ``change(z)`` on the head outputs ``[batch, tokens, heads, head_dim]`` of a layer; as `on_residual`."""
    parts = architecture(study)

    def before(module, args):
        z = change(args[0].unflatten(-1, (parts.n_heads, -1)))
        return None if z is None else (z.flatten(-2), *args[1:])

    return parts.layers[layer].self_attn.o_proj.register_forward_pre_hook(before)


def on_neurons(study: StudyModel, layer: int, change: Callable):
    """Call ``change(a)`` on the neurons ``[batch, tokens, neurons]`` of a layer; as `on_residual`."""
    mlp = architecture(study).layers[layer].mlp
    if hasattr(mlp, "experts"):
        return _ExpertHook(mlp, change)

    def before(module, args):
        a = change(args[0])
        return None if a is None else (a, *args[1:])

    return mlp.down_proj.register_forward_pre_hook(before)


class _ExpertHook:
    """Neurons of a mixture of experts, which have no module of their own, as one wide layer.

    The experts run in transformers' ``batched_mm`` form, in which row ``t * k + i`` belongs to the ``i``-th expert of
    token ``t``; the activation of each row is laid out at its expert's place, changed, and read back.
    """

    def __init__(self, mlp, change: Callable):
        self.experts, self.change = mlp.experts, change
        self.gate, self.form = self.experts._apply_gate, self.experts.config._experts_implementation
        self.experts.config._experts_implementation = "batched_mm"
        self.experts._apply_gate = self._gated
        self.hooks = [
            mlp.register_forward_pre_hook(self._shape),
            self.experts.register_forward_pre_hook(self._route, with_kwargs=True),
        ]

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


# -- reading -----------------------------------------------------------------------------------------------


@contextmanager
def capture(study: StudyModel, kinds: Sequence[str] = KINDS) -> Iterator[dict[str, list]]:
    """Every forward in the block leaves its internals here: ``{kind: one live tensor per layer}``.

    ``residual``: ``n_layers + 1`` entries ``[batch, tokens, hidden]``; ``z``: ``[batch, tokens, heads, head_dim]`` per
    layer; ``neurons``: ``[batch, tokens, neurons]`` per layer. A later forward replaces them. Inside an intervention's
    block they are seen after it.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"unknown kind of internals '{kind}' (known: {', '.join(KINDS)}){nearest(kind, KINDS)}")
    n_layers = architecture(study).n_layers
    found = {kind: [None] * (n_layers + (kind == "residual")) for kind in kinds}
    register = {"residual": on_residual, "z": on_z, "neurons": on_neurons}
    with ExitStack() as stack:
        for kind, tensors in found.items():
            for index in range(len(tensors)):
                stack.enter_context(hooked([register[kind](study, index, _keep(tensors, index))]))
        yield found


def _keep(tensors: list, index: int) -> Callable:
    def keep(x) -> None:
        tensors[index] = x

    return keep


def forward(study: StudyModel, ids, mask, **kwargs):
    """One forward pass of the transformer without the unembedding; returns the normalised final states."""
    return study.hf.model(
        input_ids=ids.to(study.device), attention_mask=mask.to(study.device), use_cache=False, **kwargs
    )[0]


def batches(study: StudyModel, items: Sequence[Encoded], batch_size: int, run: Callable) -> Iterator[tuple[list, Any]]:
    """``(rows, run(ids, mask, spans))`` for batches of conversations of like length, right-padded.

    Out of GPU memory the batch is halved once; after that a ``UserError`` says what to change.
    """
    import torch

    if not items:
        raise UserError("there are no prompts to read")
    order, halved = sorted(range(len(items)), key=lambda row: -len(items[row].ids)), False
    while order:
        rows = order[:batch_size]
        try:
            result = run(*pad([items[row] for row in rows], study.pad_id, side="right"))
        except torch.OutOfMemoryError as error:
            if halved or batch_size == 1:
                raise UserError(
                    f"out of GPU memory with {len(rows)} prompts of up to {len(items[rows[0]].ids)} tokens: lower "
                    "batch_size, shorten the prompts or take a smaller model"
                ) from error
            halved, batch_size = True, max(1, batch_size // 2)
            torch.cuda.empty_cache()
            continue
        yield rows, result
        order = order[batch_size:]


def stream(
    study: StudyModel,
    items: Sequence[Encoded],
    kinds: Sequence[str] = ("residual",),
    spans: Sequence[str] = ("last",),
    pool: str = "mean",
    batch_size: int = 64,
) -> Iterator[tuple[list[int], dict[tuple[str, str], torch.Tensor]]]:
    """Internals pooled over spans, batch by batch: ``(rows, {(kind, span): [layers, batch, ...]})``.

    ``rows`` are positions in ``items``; a conversation without a span has NaN there. ``pool`` is "mean" or "max"
    over the tokens of the span. Raises ``UserError`` for internals that are not finite (it names the layer).
    """
    import torch

    if pool not in ("mean", "max"):
        raise UserError(f"unknown pooling '{pool}': use 'mean' or 'max'")

    def run(ids, mask, places):
        inside = {span: _inside(places, span, ids.shape, study.device) for span in spans}
        with torch.inference_mode(), capture(study, kinds) as found:
            forward(study, ids, mask)
            return {
                (kind, span): torch.stack([
                    _pooled(x, where, pool, f"{study.name}: {kind} {index}") for index, x in enumerate(found[kind])
                ])
                for kind in kinds for span, where in inside.items()
            }  # fmt: skip

    yield from batches(study, items, batch_size, run)


def read(
    study: StudyModel, items: Sequence[Encoded], kinds=("residual",), spans=("last",), pool="mean", batch_size=64
) -> dict[tuple[str, str], np.ndarray]:
    """Internals of every conversation: ``{(kind, span): float32 [layers, prompts, ...]}``; pooled as in `stream`."""
    kept: dict[tuple[str, str], np.ndarray] = {}
    for rows, pooled in stream(study, items, kinds, spans, pool, batch_size):
        for key, values in pooled.items():
            if key not in kept:
                kept[key] = np.full((len(values), len(items), *values.shape[2:]), np.nan, dtype=np.float32)
            kept[key][:, rows] = values.float().cpu().numpy()
    return kept


def mean(
    study: StudyModel, items: Sequence[Encoded], kind: str, span: str = "last", batch_size: int = 64
) -> np.ndarray:
    """The mean over conversations ``[layers, ...]``; one batch in memory at a time, spans that are missing left out."""
    total, count = 0.0, 0
    for _, pooled in stream(study, items, (kind,), (span,), batch_size=batch_size):
        values = pooled[kind, span].double()
        there = ~values.isnan().flatten(2).any(-1).any(0)
        total, count = total + values[:, there].sum(1).cpu().numpy(), count + int(there.sum())
    if not count:
        raise UserError(f"no prompt has the span '{span}'")
    return (total / count).astype(np.float32)


def _inside(places: list[dict], span: str, shape, device: str):
    """Mask ``[batch, tokens]`` of a span; a row without it is all False."""
    import torch

    mask = torch.zeros(shape, dtype=torch.bool)
    for row, spans in enumerate(places):
        mask[row, slice(*spans.get(span, (0, 0)))] = True
    return mask.to(device)


def _pooled(x, where, pool: str, name: str):
    """``x`` ``[batch, tokens, ...]`` over the tokens in ``where``: ``[batch, ...]``, NaN where there are none."""
    import torch

    x = x.float()
    shape = where.shape + (1,) * (x.dim() - 2)
    if pool == "mean":
        pooled = torch.einsum("bt,bt...->b...", where.float() / where.sum(1, keepdim=True).clamp(min=1), x)
    else:
        pooled = x.masked_fill(~where.view(shape), float("-inf")).amax(1)
    missing = ~where.any(1)
    if not pooled[~missing].isfinite().all():
        raise UserError(f"{name} is not finite: load the model in float32 or bfloat16")
    pooled[missing] = float("nan")
    return pooled
