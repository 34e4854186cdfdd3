"""Does a model fit a device, and how many conversations at once? From its configuration alone; no weights are read.

The weights are counted exactly, on torch's meta device. What a conversation needs is an estimate. Generation: keys and
values of all tokens, one layer's work, one row of logits. Reading: one layer's work, and residual, heads and neurons of
all layers. Gradients: what a backward pass keeps, measured in float32 on five families at 20 to 24 hidden sizes per
token and layer with an MLP 2.75 times as wide, thus about 12 hidden sizes and 4 widths, and more in 16 bits, where
norms are kept in 32. (Gemma 2 took 58: its attention is formed as a whole.) A wrong guess loses nothing: out of memory
halves the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

from rimkit.errors import UserError
from rimkit.models.placing import SPREAD, Place

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes per weight with doubly quantised scales
SAMPLING = 24  # bytes per entry of the vocabulary while a token is drawn: float32 scores, float64 sums
RESERVED = 1.0  # GiB for the CUDA context, kernels and gaps


@dataclass(frozen=True)
class Needs:
    """What a model asks of memory: ``parameters``, of which ``linear`` can be rounded to 4 bits; and its sizes."""

    parameters: int
    linear: int
    layers: int
    hidden: int
    width: int  # of the MLP: neurons per token, of all experts that a token is sent to
    vocabulary: int
    cached: tuple[tuple[int, int | None], ...]  # per layer: numbers per token in the cache, largest number of tokens

    def weights(self, dtype: str, quantize: str | None = None) -> float:
        """Bytes of the weights."""
        if not quantize:
            return self.parameters * BYTES[dtype]
        return self.linear * NF4 + (self.parameters - self.linear) * BYTES[dtype]

    def cache(self, dtype: str, tokens: int) -> float:
        """Bytes of keys and values of one conversation; layers with a sliding window keep no more than that."""
        return BYTES[dtype] * sum(numbers * min(tokens, limit or tokens) for numbers, limit in self.cached)

    def generating(self, dtype: str, tokens: int) -> float:
        """Bytes per conversation of ``tokens`` tokens while it is generated."""
        return self.cache(dtype, tokens) + self._work(dtype, tokens) + self.vocabulary * (SAMPLING + BYTES[dtype])

    def reading(self, dtype: str, tokens: int) -> float:
        """Bytes per conversation while all of its inside is read."""
        return self._work(dtype, tokens) + BYTES[dtype] * tokens * self.layers * (2 * self.hidden + self.width)

    def gradients(self, dtype: str, tokens: int) -> float:
        """Bytes per conversation while gradients are taken: attribution, and tuning without its optimiser."""
        return BYTES[dtype] * tokens * self.layers * (14 * self.hidden + 4 * self.width)

    def _work(self, dtype: str, tokens: int) -> float:
        return BYTES[dtype] * tokens * (6 * self.hidden + 3 * self.width)


def needs_of(config) -> Needs:
    """What the model of a Hugging Face configuration needs; raises ``UserError`` for an unknown architecture."""
    hf = _hollow(config)
    text = config.get_text_config()
    parts = [module for name, module in hf.named_modules() if _can_be_rounded(name, module)]
    experts = getattr(text, "num_experts_per_tok", None)
    width = getattr(text, "moe_intermediate_size", None) if experts else None
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kinds = getattr(text, "layer_types", None) or [_only_kind(text)] * text.num_hidden_layers
    window = getattr(text, "sliding_window", None)
    per_kind = {"linear_attention": (0, None), "sliding_attention": (2 * heads * head_dim, window)}
    return Needs(
        parameters=sum(weight.numel() for weight in hf.parameters()),
        linear=sum(prod(module.weight.shape) for module in parts),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        width=(width or getattr(text, "intermediate_size", None) or 4 * text.hidden_size) * (experts or 1),
        vocabulary=text.vocab_size,
        cached=tuple(per_kind.get(kind, (2 * heads * head_dim, None)) for kind in kinds),
    )


def _only_kind(text) -> str:
    on = getattr(text, "use_sliding_window", True) and getattr(text, "sliding_window", None)
    return "sliding_attention" if on else "full_attention"


def _hollow(config):
    """The module without numbers."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    if config.model_type not in KNOWN:
        raise UserError(
            f"the architecture '{config.model_type}' is not a causal language model that transformers knows"
        )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _can_be_rounded(name: str, module) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")


def at_once(needs: Needs, memory: float, dtype: str, tokens: int, quantize: str | None = None) -> tuple[int, int, int]:
    """How many conversations of ``tokens`` tokens ``memory`` bytes hold: to generate, to read, to take gradients."""
    free = memory - RESERVED * GIB - needs.weights(dtype, quantize)
    return tuple(
        max(0, int(free // each(dtype, tokens))) for each in (needs.generating, needs.reading, needs.gradients)
    )


def free_bytes(device: str) -> float:
    """Memory that is free on a device of this machine, in bytes."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def check_fits(name: str, source: str, config, place: Place) -> Place:
    """The place, or the same over several GPUs where the first is too small; `UserError` if the weights do not fit."""
    import torch

    if place.device == SPREAD:
        return place
    free = free_bytes(place.device)
    if _on_disk(source) * 4 < free:  # in whatever dtype it is stored: no need to count
        return place
    needs = needs_of(config)
    weights = needs.weights(place.dtype, place.quantize)
    if weights <= free:
        return place
    if place.device == "cuda" and torch.cuda.device_count() > 1:
        return place._replace(device=SPREAD)
    raise UserError(too_large(name, needs, place, free))


def too_large(name: str, needs: Needs, place: Place, free: float) -> str:
    """One line: by how much the weights exceed what is free, and what would help."""
    weights = needs.weights(place.dtype, place.quantize)
    in_what = "4 bits" if place.quantize else place.dtype
    ways = ["take a smaller model or a larger device"]
    if place.device.startswith("cuda") and not place.quantize:
        ways.insert(0, f"load it in 4 bits ('{name}+4bit', {needs.weights(place.dtype, '4bit') / GIB:.1f} GiB)")
    elif place.dtype == "float32":
        ways.insert(0, f'load it with dtype="bfloat16" ({needs.weights("bfloat16") / GIB:.1f} GiB)')
    return (
        f"{name} is too large for this device by {(weights - free) / GIB:.1f} GiB: its weights take "
        f"{weights / GIB:.1f} GiB in {in_what} and {place.device} has {free / GIB:.1f} GiB free; {' or '.join(ways)}"
    )


def _on_disk(source: str) -> float:
    """Bytes of the weights of a folder; infinite for a hub id, whose weights may not be here yet."""
    sizes = [file.stat().st_size for file in Path(source).glob("*.safetensors")] if Path(source).is_dir() else []
    return sum(sizes) if sizes else float("inf")
