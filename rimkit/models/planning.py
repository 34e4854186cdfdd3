"""``rimkit plan``: does a model fit this machine or a known GPU, and how many conversations at once?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rimkit.errors import UserError, nearest
from rimkit.models import fitting
from rimkit.models.fitting import GIB, Needs
from rimkit.models.loading import config_of
from rimkit.models.locating import options_of
from rimkit.models.placing import choose_device, choose_here

if TYPE_CHECKING:
    import pandas as pd

# What CUDA reports as the whole memory, in GiB, and the compute capability, which sets the dtype.
GPUS = {
    "T4": (14.6, (7, 5)),
    "L4": (22.0, (8, 9)),
    "A10": (22.0, (8, 6)),
    "A100-40": (39.4, (8, 0)),
    "A100-80": (79.2, (8, 0)),
    "H100": (79.1, (9, 0)),
}
# Published sizes, for planning without a network; the hub id or a folder gives those of any other model.
QWEN3 = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128}
SHAPES = {
    "Qwen3-0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "Qwen3-4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "Qwen3-8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
TIED = ("Qwen3-0.6B", "Qwen3-4B")  # one matrix for the embeddings and the last layer
HERE = "this machine"
COLUMNS = ["device", "memory", "dtype", "weights", "generate", "read", "gradients", "verdict"]


def plan(model: str, gpu: str | None = None, tokens: int = 1024) -> tuple[Needs, pd.DataFrame]:
    """What a model needs, and a table of devices: this machine and all of `GPUS`, or one of them.

    ``model``: an embedded name, a folder (its weights may be missing) or a hub id, of which only the configuration is
    read; options (``+4bit``) count. Columns: ``device, memory, dtype, weights, generate, read, gradients, verdict``;
    memory and weights in GiB, ``generate`` to ``gradients`` in conversations of ``tokens`` tokens at once.

    Raises ``UserError`` for an unknown model, architecture or GPU, and fewer than one token.
    """
    needs = fitting.needs_of(config_of(model))
    return needs, devices(needs, gpu, tokens, options_of(model)[1].get("quantize"))


def shape(name: str):
    """The Hugging Face configuration of one of `SHAPES`; raises ``UserError`` for another name."""
    from transformers import Qwen3Config

    if name not in SHAPES:
        raise UserError(f"unknown shape '{name}': known are {', '.join(SHAPES)}{nearest(name, SHAPES)}")
    return Qwen3Config(**QWEN3, **SHAPES[name], tie_word_embeddings=name in TIED)


def devices(needs: Needs, gpu: str | None = None, tokens: int = 1024, quantize: str | None = None) -> pd.DataFrame:
    """The table of `plan` for needs that are known already."""
    import pandas as pd

    if tokens < 1:
        raise UserError(f"tokens must be 1 or more, not {tokens}")
    known = {name.lower(): name for name in GPUS}
    if gpu is not None and gpu.lower() not in known:
        raise UserError(f"unknown GPU '{gpu}': known are {', '.join(GPUS)}{nearest(gpu, GPUS)}")
    asked = [here()] if gpu is None else []
    asked += [_known(name) for name in ([known[gpu.lower()]] if gpu else GPUS)]
    return pd.DataFrame([_row(needs, *device, tokens, quantize) for device in asked], columns=COLUMNS)


def here() -> tuple[str, float, str]:
    """This machine as a row of the plan: name, memory in bytes, dtype."""
    import torch

    place = choose_here(None, None)
    if place.device == "cpu":
        return f"{HERE} (CPU)", fitting.free_bytes("cpu"), place.dtype
    device = torch.cuda.get_device_properties(0)
    return f"{HERE} ({device.name})", device.total_memory, place.dtype


def _known(name: str) -> tuple[str, float, str]:
    memory, capability = GPUS[name]
    return name, memory * GIB, choose_device("cuda", None, capability=capability, mps=False)[1]


def _row(needs: Needs, name: str, memory: float, dtype: str, tokens: int, quantize: str | None) -> tuple:
    on_cpu = "CPU" in name
    if quantize and on_cpu:
        return name, memory / GIB, dtype, float("nan"), 0, 0, 0, "4 bits need an NVIDIA GPU"
    weights = needs.weights(dtype, quantize)
    generate, read, gradients = fitting.at_once(needs, memory, dtype, tokens, quantize)
    numbers = name, memory / GIB, dtype, weights / GIB, generate, read, gradients
    if not generate:
        missing = weights + fitting.RESERVED * GIB + needs.generating(dtype, tokens) - memory
        rounded = not quantize and not on_cpu and fitting.at_once(needs, memory, dtype, tokens, "4bit")[0]
        return *numbers, f"too large by {missing / GIB:.1f} GiB{'; +4bit fits' if rounded else ''}"
    limits = "replies only: its inside does not fit" if not read else "" if gradients else "fits, but no gradients"
    return *numbers, limits or "fits"


def lines(model: str, needs: Needs, table: pd.DataFrame, tokens: int) -> list[str]:
    """A plan as text."""
    size, unit = (needs.parameters / 1e9, "billion") if needs.parameters >= 1e9 else (needs.parameters / 1e6, "million")
    width = max(map(len, table["device"]))
    said = [
        f"{model}: {size:.3g} {unit} parameters in {needs.layers} layers; keys and values take "
        f"{needs.cache('bfloat16', 1) / 1024:.3g} KiB per token in 16 bits",
        f"At once: conversations of {tokens} tokens (prompt and reply); weights are exact, all else is estimated.",
        "",
        f"{'device':{width}}    GiB  dtype     weights  generate   read  gradients  verdict",
    ]
    for row in table.itertuples():
        numbers = f"{row.memory:5.1f}  {row.dtype:8}  {row.weights:7.1f}  {row.generate:8}  {row.read:5}"
        said.append(f"{row.device:{width}}  {numbers}  {row.gradients:9}  {row.verdict}")
    return said
