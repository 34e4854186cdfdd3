"""Where a model is computed and in which numbers, whether it fits there, and batches that shrink.

It knows devices and configurations, and reads no weights. These are counted exactly, on torch's
meta device; what a conversation needs is an estimate (gradients: measured in float32 on five
families, at 20 to 24 hidden sizes per token and layer with an MLP 2.75 times as wide, and more in
16 bits, where norms are kept in 32). A wrong guess loses nothing: out of memory, a batch is halved.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

from rimkit.data import GIB, UserError, check_known

if TYPE_CHECKING:
    from rimkit.models.study import StudyModel

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SPREAD = "auto"
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes per weight with doubly quantised scales
SAMPLING = 24  # bytes per entry of the vocabulary while a token is drawn
RESERVED = 1.0  # GiB for the CUDA context, kernels and gaps
# What CUDA reports as the whole memory, in GiB, and the compute capability, which sets the dtype.
GPUS = {
    "T4": (14.6, (7, 5)), "L4": (22.0, (8, 9)), "A10": (22.0, (8, 6)), "A100-40": (39.4, (8, 0)),
    "A100-80": (79.2, (8, 0)), "H100": (79.1, (9, 0)),
}  # fmt: skip
# Published sizes, for planning without a network.
QWEN3 = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SHAPES = {
    "Qwen3-0.6B": dict(zip(SIZES, (1024, 3072, 28, 16), strict=True)),
    "Qwen3-4B": dict(zip(SIZES, (2560, 9728, 36, 32), strict=True)),
    "Qwen3-8B": dict(zip(SIZES, (4096, 12288, 36, 32), strict=True)),
}
TIED = ("Qwen3-0.6B", "Qwen3-4B")  # one matrix for the embeddings and the last layer


class Place(NamedTuple):
    """``device`` ("cpu", "cuda:1" …, or "auto": over all GPUs), ``dtype``, and None or "4bit"."""

    device: str
    dtype: str
    quantize: str | None = None


def choose_device(
    device: str | None, dtype: str | None, *, capability: tuple[int, int] | None, mps: bool
) -> tuple[str, str]:
    """``(device, dtype)`` for what was asked (None: choose) and what is there. ``capability``: of
    the NVIDIA GPU, None without one. The CPU computes in float32; a GPU in bfloat16 from capability
    8 on, in float16 below (a T4 emulates bfloat16); an Apple GPU only if asked: results differ."""
    if device is None:
        device = "cuda" if capability else "cpu"
    if not re.fullmatch(r"cpu|mps|auto|cuda(:\d+)?", device):
        known = "'cpu', 'cuda', 'mps', or 'auto' for several GPUs"
        raise UserError(f"unknown {device=}: use {known}")
    there = {"cpu": True, "auto": True, "cuda": capability, "mps": mps}
    if not there[device.partition(":")[0]]:
        raise UserError(f"there is no device {device!r} here: leave device out to use the CPU")
    on_gpu = device.startswith("cuda") or (device == SPREAD and capability)
    usual = "bfloat16" if capability and capability[0] >= 8 else "float16"
    return device, dtype or (usual if on_gpu else "float32")


def choose_here(device: str | None, dtype: str | None, quantize: str | None = None) -> Place:
    """The place for what was asked on this machine; raises ``UserError`` where it cannot be had."""
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    mps = torch.backends.mps.is_available()
    if mps and not capability and device is None:
        print('running on the CPU; ask for the Apple GPU with device="mps"')
    device, dtype = choose_device(device, dtype, capability=capability, mps=mps)
    if quantize is not None:
        check_quantize(quantize, on_gpu=capability is not None and device not in ("cpu", "mps"))
    return Place(device, dtype, quantize)


def check_quantize(quantize: str, *, on_gpu: bool) -> None:
    """Raise ``UserError`` unless four bits can be had: they need an NVIDIA GPU and bitsandbytes."""
    check_known("quantize", quantize, ["4bit"])
    if not on_gpu:
        raise UserError("4-bit weights need an NVIDIA GPU: here leave quantize (or +4bit) out")
    if find_spec("bitsandbytes") is None:
        raise UserError("4-bit weights need the package bitsandbytes: pip install bitsandbytes")


def settings_of(place: Place) -> dict:
    """The arguments of ``from_pretrained``; without a device map the model is moved afterwards."""
    dtype = getattr(torch, place.dtype)
    settings = {"dtype": dtype}
    if place.device == SPREAD or place.quantize:
        settings["device_map"] = SPREAD if place.device == SPREAD else {"": place.device}
    if place.quantize:
        four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        settings["quantization_config"] = BitsAndBytesConfig(**four, bnb_4bit_compute_dtype=dtype)
    return settings


def check_spread(name: str, hf) -> None:
    """Raise ``UserError`` if several GPUs did not hold the model, and part of it lies elsewhere."""
    places = {str(place) for place in (getattr(hf, "hf_device_map", None) or {}).values()}
    outside = sorted(places & {"cpu", "disk"})
    if "disk" in places or (outside and len(places) > len(outside)):
        parts = f"part of it would lie on {' and '.join(outside)}"
        ways = f"load it in 4 bits ('{name}+4bit') or take a smaller model"
        raise UserError(f"{name} is too large for the devices here: {parts}; {ways}")


def move(hf, device: str | None, dtype: str | None):
    """A module in memory, moved if a device or dtype is asked for."""
    if device == SPREAD:
        raise UserError("a model in memory stays on one device: load it by its name to spread it")
    if device is not None:
        hf = hf.to(choose_here(device, dtype).device)
    return hf if dtype is None else hf.to(getattr(torch, dtype))


@dataclass(frozen=True)
class Needs:
    """What a model asks of memory, in numbers of parameters and sizes of one token. ``linear``:
    parameters that can be rounded to 4 bits. ``width``: neurons of all experts of a token.
    ``cached``: per layer, numbers per token in the cache, and the most tokens there."""

    parameters: int
    linear: int
    layers: int
    hidden: int
    width: int
    vocabulary: int
    cached: tuple[tuple[int, int | None], ...]

    def weights(self, dtype: str, quantize: str | None = None) -> float:
        """Bytes of the weights."""
        if not quantize:
            return self.parameters * BYTES[dtype]
        return self.linear * NF4 + (self.parameters - self.linear) * BYTES[dtype]

    def cache(self, dtype: str, tokens: int) -> float:
        """Bytes of keys and values of one conversation, which a sliding window limits."""
        kept = (numbers * min(tokens, limit or tokens) for numbers, limit in self.cached)
        return BYTES[dtype] * sum(kept)

    def generating(self, dtype: str, tokens: int) -> float:
        """Bytes per conversation of ``tokens`` tokens while it is generated."""
        drawing = self.vocabulary * (SAMPLING + BYTES[dtype])
        return self.cache(dtype, tokens) + self._work(dtype, tokens) + drawing

    def reading(self, dtype: str, tokens: int) -> float:
        """Bytes per conversation while all of its inside is read."""
        kept = BYTES[dtype] * tokens * self.layers * (2 * self.hidden + self.width)
        return self._work(dtype, tokens) + kept

    def gradients(self, dtype: str, tokens: int) -> float:
        """Bytes per conversation for attribution, and for tuning without its optimiser."""
        return BYTES[dtype] * tokens * self.layers * (14 * self.hidden + 4 * self.width)

    def _work(self, dtype: str, tokens: int) -> float:
        return BYTES[dtype] * tokens * (6 * self.hidden + 3 * self.width)


def needs_of(config) -> Needs:
    """What the model of a Hugging Face configuration needs; ``UserError`` if it is no known one."""
    kind, text = config.model_type, config.get_text_config()
    if kind not in KNOWN:
        raise UserError(f"the architecture '{kind}' is not a causal language model of transformers")
    try:
        with torch.device("meta"):
            hf = AutoModelForCausalLM.from_config(config)
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise UserError(f"no {kind} can be built from this configuration: {error}") from error
    parts = {name: one for name, one in hf.named_modules() if isinstance(one, torch.nn.Linear)}
    linear = [one.weight.numel() for name, one in parts.items() if not name.endswith("lm_head")]

    def known(name: str):
        return getattr(text, name, None)

    experts = known("num_experts_per_tok")
    width = (experts and known("moe_intermediate_size")) or known("intermediate_size")
    head_dim = known("head_dim") or text.hidden_size // text.num_attention_heads
    per_token = 2 * head_dim * (known("num_key_value_heads") or text.num_attention_heads)
    window = known("sliding_window")
    only = "sliding_attention" if window and getattr(text, "use_sliding_window", True) else ""
    cached = {"linear_attention": (0, None), "sliding_attention": (per_token, window)}
    kinds = known("layer_types") or [only] * text.num_hidden_layers
    return Needs(
        parameters=sum(weight.numel() for weight in hf.parameters()), linear=sum(linear),
        layers=text.num_hidden_layers, hidden=text.hidden_size, vocabulary=text.vocab_size,
        width=(width or 4 * text.hidden_size) * (experts or 1),
        cached=tuple(cached.get(kind, (per_token, None)) for kind in kinds),
    )  # fmt: skip


def at_once(needs: Needs, memory: float, dtype: str, tokens: int, quantize: str | None = None) -> tuple:
    """How many conversations ``memory`` bytes hold: to generate, to read, to take gradients."""
    free = memory - RESERVED * GIB - needs.weights(dtype, quantize)
    ways = (needs.generating, needs.reading, needs.gradients)
    return tuple(max(0, int(free // way(dtype, tokens))) for way in ways)


def free_bytes(device: str) -> float:
    """Memory that is free on a device of this machine, in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def check_fits(name: str, source: str, config, place: Place) -> Place:
    """The place, or the same over several GPUs where the first is too small. ``source``: a folder
    or a hub id. Raises ``UserError`` if the weights do not fit."""
    if place.device == SPREAD:
        return place
    free = free_bytes(place.device)
    here = [file.stat().st_size for file in Path(source).glob("*.safetensors")]
    if here and sum(here) * 4 < free:  # in whatever dtype it is stored: no need to count
        return place
    needs = needs_of(config)
    if needs.weights(place.dtype, place.quantize) <= free:
        return place
    if place.device == "cuda" and torch.cuda.device_count() > 1:
        return place._replace(device=SPREAD)
    raise UserError(too_large(name, needs, place, free))


def too_large(name: str, needs: Needs, place: Place, free: float) -> str:
    """One line: by how much the weights exceed what is free, and what would help."""

    def size(quantize: str | None, dtype: str = place.dtype) -> float:
        return needs.weights(dtype, quantize) / GIB

    weights, free = size(place.quantize), free / GIB
    ways = "take a smaller model or a larger device"
    if place.device.startswith("cuda") and not place.quantize:
        ways = f"load it in 4 bits ('{name}+4bit', {size('4bit'):.1f} GiB) or {ways}"
    elif place.dtype == "float32":
        ways = f'load it with dtype="bfloat16" ({size(None, "bfloat16"):.1f} GiB) or {ways}'
    over = f"{name} is too large for this device by {weights - free:.1f} GiB"
    take = f"its weights take {weights:.1f} GiB in {'4 bits' if place.quantize else place.dtype}"
    return f"{over}: {take} and {place.device} has {free:.1f} GiB free; {ways}"


def shrinking(
    study: StudyModel, what: str, lengths: Sequence[int], batch_size: int, run: Callable, advice: str
) -> Iterator[tuple[list[int], Any]]:
    """``(rows, run(rows))`` for batches of conversations of ``lengths`` tokens, the longest first.
    A batch that runs out of memory is halved and tried again; how many tokens were too many for
    ``what`` ("generating", "reading") is kept in ``study.limits`` for every later batch. Raises
    ``UserError``, with ``advice``, when one conversation alone is too much."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        longest = lengths[order[0]]
        size = min(batch_size, max(1, study.limits.get(what, batch_size * longest) // longest))
        rows, fits = order[:size], True
        try:
            result = run(rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            fits = False  # and on outside of this block: the traceback holds on to the tensors
        if fits:
            yield rows, result
            order = order[size:]
            continue
        study.limits[what] = len(rows) * longest // 2
        gc.collect()
        if (kind := study.device.partition(":")[0]) in ("cuda", "mps"):
            getattr(torch, kind).empty_cache()
        if len(rows) == 1:
            one = f"one conversation of {longest} tokens on {study.device}"
            raise UserError(f"out of memory while {what} {one}: {advice}")
        many = f"{len(rows)} conversations of up to {longest} tokens"
        print(f"out of memory with {many}: going on with fewer")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, of whatever kind, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or should_reduce_batch_size(error):
        return True
    return any(words in str(error).lower() for words in ("can't allocate memory", "mps backend out of memory"))
