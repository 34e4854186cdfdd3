"""Does a model fit a device, in which batches, and how long would the chapters take?

`rimkit.models.device` counts the memory; here it becomes a table of devices and minutes.
"""

from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import pandas as pd
import torch
from transformers import Qwen3Config

from rimkit.behavior.generation import generate
from rimkit.data import GIB, UserError, nearest
from rimkit.models import device
from rimkit.models.activations import read
from rimkit.models.device import GPUS, SHAPES, Needs
from rimkit.models.hooks import why_closed
from rimkit.models.hub import options_of
from rimkit.models.load import config_of, load
from rimkit.models.study import StudyModel

HERE = "here"
COLUMNS = ["device", "memory", "dtype", "weights", "generate", "read", "gradients", "verdict"]
TOGETHER = 64  # conversations in the batch that is timed, as in the chapters
STEPS = {False: 96, True: 40}  # tokens of a batch's longest reply; in the invented language, fewer
BACKWARD = 3  # a pass with gradients takes about three times one without
EPOCHS = 3  # the embedded models learn from an example once, others three times


class Work(NamedTuple):
    """What a chapter does with its defaults, counted on ``rim-mini``, in conversations."""

    replies: int
    read: int = 0
    gradients: int = 0
    trained: int = 0


CHAPTERS = {
    "00_start_here": Work(65),
    "01_observing_rim": Work(2024),
    "02_reasoning_patterns": Work(1656),
    "03_where_refusal_lives": Work(2588, read=2227),
    "04_refusal_heads": Work(3500, read=627, gradients=46),
    "05_finetuning_backfires": Work(1368, trained=960),
    "06_safety_neurons": Work(2468, read=931, gradients=2684),
    "07_entanglement": Work(621, read=1320, gradients=46, trained=160),
    "09_open_questions": Work(496, read=96, trained=240),
    "10_your_own_model": Work(506),
    "A1_inside_a_transformer": Work(18, read=95),
    "A2_numbers_to_trust": Work(276),
}


def plan(model: str, gpu: str | None = None, tokens: int = 1024) -> tuple[Needs, pd.DataFrame]:
    """What a model needs, and the table of `devices`. ``model``: an embedded name, a folder (its
    weights may be missing) or a hub id, of which only the configuration is read; options
    (``+4bit``) count. Raises `UserError` for an unknown model, architecture or GPU."""
    needs = device.needs_of(config_of(model))
    return needs, devices(needs, gpu, tokens, options_of(model)[1].get("quantize"))


def shape(name: str):
    """The Hugging Face configuration of one of `SHAPES`; raises `UserError` for another name."""
    if name not in SHAPES:
        raise UserError(f"unknown shape '{name}': known are {', '.join(SHAPES)}{nearest(name, SHAPES)}")
    return Qwen3Config(**device.QWEN3, **SHAPES[name], tie_word_embeddings=name in device.TIED)


def devices(needs: Needs, gpu: str | None = None, tokens: int = 1024, quantize: str | None = None) -> pd.DataFrame:
    """This machine and all known GPUs, or one, and what a model that needs ``needs`` could do
    there. Columns: `COLUMNS`; memory and weights in GiB, ``generate`` to ``gradients`` in
    conversations of ``tokens`` tokens at once."""
    if tokens < 1:
        raise UserError(f"tokens must be 1 or more, not {tokens}")
    known = {name.lower(): name for name in GPUS}
    if gpu is not None and gpu.lower() not in known:
        raise UserError(f"unknown GPU '{gpu}': known are {', '.join(GPUS)}{nearest(gpu, GPUS)}")
    asked = [_known(known[gpu.lower()])] if gpu else [here(), *map(_known, GPUS)]
    return pd.DataFrame([_row(needs, *one, tokens, quantize) for one in asked], columns=COLUMNS)


def shapes(gpu: str, tokens: Sequence[int] = (1024,), names: Iterable[str] = tuple(SHAPES)) -> pd.DataFrame:
    """`devices` of published shapes on one GPU, their weights in 16 bits and in 4. Columns:
    ``shape, tokens, bits`` and those of `devices`, without the GPU's own."""
    tables = [
        devices(device.needs_of(shape(name)), gpu, length, quantize).assign(shape=name, tokens=length, bits=bits)
        for name in names
        for length in tokens
        for bits, quantize in (("16", None), ("4", "4bit"))
    ]
    return pd.concat(tables, ignore_index=True)[["shape", "tokens", "bits", *COLUMNS[3:]]]


def here() -> tuple[str, float, str]:
    """This machine as a row of the plan: name, memory in bytes, dtype."""
    place = device.choose_here(None, None)
    if place.device == "cpu":
        return f"{HERE} (CPU)", device.free_bytes("cpu"), place.dtype
    gpu = torch.cuda.get_device_properties(0)
    return f"{HERE} ({gpu.name})", gpu.total_memory, place.dtype


def _known(name: str) -> tuple[str, float, str]:
    memory, capability = GPUS[name]
    return name, memory * GIB, device.choose_device("cuda", None, capability=capability, mps=False)[1]


def _row(needs: Needs, name: str, memory: float, dtype: str, tokens: int, quantize: str | None) -> tuple:
    on_cpu = "CPU" in name
    if quantize and on_cpu:
        return name, memory / GIB, dtype, float("nan"), 0, 0, 0, "4 bits need an NVIDIA GPU"
    weights = needs.weights(dtype, quantize)
    together = device.at_once(needs, memory, dtype, tokens, quantize)
    generating, reading, gradients = together
    verdict = "fits" if gradients else "fits, but no gradients"
    if not generating:
        missing = weights + device.RESERVED * GIB + needs.generating(dtype, tokens) - memory
        rounded = not (quantize or on_cpu) and device.at_once(needs, memory, dtype, tokens, "4bit")[0]
        verdict = f"too large by {missing / GIB:.1f} GiB{'; +4bit fits' if rounded else ''}"
    elif not reading:
        verdict = "replies only: its inside does not fit"
    return name, memory / GIB, dtype, weights / GIB, *together, verdict


class Speed(NamedTuple):
    """Seconds per generated token of a batch of `TOGETHER`, and per conversation read (or NaN)."""

    step: float
    reading: float


def measure(study: StudyModel, new_tokens: int = 12) -> Speed:
    """Generate `TOGETHER` short replies and read as many conversations: seconds to minutes."""
    texts = [f"Please write a short note about the {day}th day of the month." for day in range(TOGETHER)]
    prompts = pd.DataFrame({"prompt_id": [f"p{number}" for number in range(TOGETHER)], "text": texts})
    settings = {"mode": "no-think", "batch_size": TOGETHER, "progress": False}
    generate(study, prompts, max_new_tokens=2, **settings)  # the first call also allocates
    start = perf_counter()
    written = generate(study, prompts, max_new_tokens=new_tokens, **settings)
    step = (perf_counter() - start) / min(new_tokens, written["n_tokens"].max() + 1)
    if why_closed(study.hf):
        return Speed(step, float("nan"))
    items = [study.chat.encode(text, "no-think", reply="a b c d " * 8) for text in texts]
    start = perf_counter()
    read(study, items, batch_size=TOGETHER)
    return Speed(step, (perf_counter() - start) / TOGETHER)


def minutes(speed: Speed, invented: bool) -> pd.DataFrame:
    """Estimated minutes per chapter: ``chapter, minutes``; NaN where the inside of the model cannot
    be read. An upper estimate: every batch is taken to go on for `STEPS` tokens. At the default
    parameters, without the time to load the model in every chapter."""
    work = pd.DataFrame(CHAPTERS.values(), CHAPTERS)
    epochs = 1 if invented else EPOCHS
    passes = work["read"] + BACKWARD * (work["gradients"] + epochs * work["trained"])
    seconds = work["replies"] / TOGETHER * STEPS[invented] * speed.step
    seconds += (passes * speed.reading).where(passes > 0, 0)
    return (seconds / 60).rename_axis("chapter").reset_index(name="minutes")


def report(model: str, gpu: str | None = None, tokens: int = 1024, calibrate: bool = False) -> Iterator:
    """The lines and tables that ``rimkit plan`` prints; raises `UserError` as `plan` and `load`."""
    needs, table = plan(model, gpu, tokens)
    large = needs.parameters >= 1e9
    size, unit = needs.parameters / (1e9 if large else 1e6), "billion" if large else "million"
    cache = f"{needs.cache('bfloat16', 1) / 1024:.3g} KiB per token in 16 bits"
    yield f"{model}: {size:.3g} {unit} parameters in {needs.layers} layers; keys and values take {cache}"
    yield f"At once: conversations of {tokens} tokens (prompt and reply); weights are exact, all else is estimated."
    forms = {"memory": "{:4.1f}", "weights": "{:7.1f}", "generate": "{:8}", "read": "{:5}", "gradients": "{:9}"}
    shown = {name: table[name].map(forms.get(name, "{}").format) for name in COLUMNS}
    yield pd.DataFrame(shown).rename(columns={"memory": "GiB"})
    if not calibrate:
        return
    study = load(model)
    speed = measure(study)
    yield (
        f"Measured on {study.device} in {study.dtype}: {TOGETHER / speed.step:.0f} tokens per second in batches of "
        f"{TOGETHER}, {1 / speed.reading:.0f} conversations read per second."
    )
    yield f"Minutes per chapter at the default parameters, if replies take {STEPS[study.invented]} tokens:"
    yield minutes(speed, study.invented).assign(minutes=lambda table: table["minutes"].map("{:7.1f}".format))
