"""The inside of a model: where the residual stream, head outputs z, MLP neurons and attention live.

This is the only module that knows module names. The numbering is that of the field: *residual* ``i`` is the
stream before layer ``i`` (0: the embeddings, ``n_layers``: after the last layer, before the final norm); *z* is what a
head writes before ``o_proj`` mixes the heads; a *neuron* is one input of ``down_proj``, which in a gated MLP is the
product of gate and value. In a mixture of experts, neuron ``expert * width + j`` is neuron ``j`` of that expert, 0 at
tokens that are not sent to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rimkit.errors import UserError

if TYPE_CHECKING:
    import torch

    from rimkit.models.loading import StudyModel

NORMALISED_AFTER = ("olmo2", "gemma2")  # families that normalise what attention adds
FAMILIES = ("qwen3", "qwen2", "llama", "mistral", "phi3", "olmo2", "gemma2", "qwen3_moe", "olmoe")


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


@contextmanager
def untraced(hf) -> Iterator[None]:
    """Without what nnsight wraps around every module's forward, which costs a small model some percent of its time.

    For code that is not inside a trace. Modules that accelerate moves between devices keep theirs: it does the moving.
    """

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


def head_writes(study: StudyModel, layer: int, z: torch.Tensor) -> torch.Tensor:
    """What each head adds to the residual stream, ``[..., heads, hidden]``, given its z ``[..., heads, head_dim]``.

    The sum over heads is what the attention of the layer adds (less a bias of ``o_proj``). Where the architecture
    normalises that sum first (OLMo-2, Gemma-2), each head gets its share at the scale of the sum.
    """
    import torch

    parts, block = architecture(study), architecture(study).layers[layer]
    weight = _plain(study, block.self_attn.o_proj.weight).unflatten(1, (parts.n_heads, -1))  # [hidden, heads, head_dim]
    writes = torch.einsum("...hd,ohd->...ho", z, weight)
    if study.hf.config.model_type not in NORMALISED_AFTER:
        return writes
    norm, total = block.post_attention_layernorm, writes.sum(-2, keepdim=True)
    scale = (total.float().pow(2).mean(-1, keepdim=True) + getattr(norm, "variance_epsilon", 1e-6)).rsqrt()
    gain = norm.weight + 1 if study.hf.config.model_type == "gemma2" else norm.weight
    return writes * scale.to(writes.dtype) * gain


def neuron_writes(study: StudyModel, layer: int) -> torch.Tensor:
    """What every neuron of a layer writes at activation 1, ``[neurons, hidden]``: the columns of ``down_proj``."""
    mlp = architecture(study).layers[layer].mlp
    if hasattr(mlp, "experts"):
        return mlp.experts.down_proj.detach().transpose(1, 2).flatten(0, 1)
    return _plain(study, mlp.down_proj.weight).detach().T


def _plain(study: StudyModel, weight: torch.Tensor) -> torch.Tensor:
    if not weight.is_floating_point():
        raise UserError(f"{study.name}: weights that are packed in 4 bits cannot be taken apart: load it without +4bit")
    return weight


# -- hooks -------------------------------------------------------------------------------------------------


@contextmanager
def hooked(handles: Sequence) -> Iterator[None]:
    """Remove hooks at the end of the block, the last first, since some put back what they found."""
    try:
        yield
    finally:
        for handle in reversed(handles):
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


@contextmanager
def given_z(study: StudyModel, layer: int, z: torch.Tensor) -> Iterator[None]:
    """In the block a layer does not attend: its heads write ``z`` ``[batch, tokens, heads, head_dim]``."""
    attention = architecture(study).layers[layer].self_attn
    before = vars(attention).get("forward")
    attention.forward = lambda *args, **kwargs: (attention.o_proj(z.flatten(-2)), None)
    try:
        yield
    finally:
        del attention.forward
        if before is not None:
            attention.forward = before


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
