"""Does a model fit a device, in which batches, and how long would the chapters take?

`rimkit.models.device` counts the memory; here it becomes a table of devices and minutes.
"""

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from time import perf_counter
from typing import NamedTuple

import pandas as pd
import torch
from transformers import Qwen3Config

from rimkit.behavior.evaluation import ENGLISH, Evaluation
from rimkit.behavior.generation import CUT, REPLY, USUAL, generate
from rimkit.data import GIB, UserError, check_known, data_dir, nearest
from rimkit.experiments.heads import SHORT
from rimkit.models import device
from rimkit.models.activations import read
from rimkit.models.chat import MODES
from rimkit.models.device import GPUS, SHAPES, Needs
from rimkit.models.hooks import architecture, why_closed
from rimkit.models.hub import options_of
from rimkit.models.load import config_of, load
from rimkit.models.study import StudyModel
from rimkit.training.corpora import load_corpus
from rimkit.training.finetune import adapted, batch_loss, encode_corpus

HERE = "here"
COLUMNS = ["device", "memory", "dtype", "weights", "generate", "read", "gradients", "verdict"]
TOGETHER = 64  # conversations in the batch that is timed; a CPU gains little from more than 36
PROMPT = 64  # tokens of a prompt of the workbook, about


class Work(NamedTuple):
    """What a chapter does at its defaults, counted on a model of one's own: ``thoughts`` (replies
    with the model's own), other ``replies``, ``tokens`` of those whose length is set, prompts
    ``read``, ``swept`` (read without each head in turn), and examples ``trained`` on."""

    thoughts: int
    replies: int
    tokens: int = 0
    read: int = 0
    read_thoughts: int = 0
    swept: int = 0
    gradients: int = 0
    trained: int = 0


_WORK = pd.read_csv(data_dir() / "work.csv", index_col="chapter")
CHAPTERS = {chapter: Work(**row) for chapter, row in _WORK.to_dict("index").items()}


def hours(n_prompts: int, n_tokens: int, batch: int, seconds: float) -> float:
    """Of writing in both modes, one after the other; a step takes ``seconds`` for a whole batch."""
    return 2 * -(-n_prompts // batch) * n_tokens * seconds / 3600


def plan(model: str, gpu: str | None = None, tokens: int = 1024) -> tuple[Needs, pd.DataFrame]:
    """What a model, by name, needs of memory, and `devices` for it."""
    needs = device.needs_of(config_of(model))
    return needs, devices(needs, gpu, tokens, options_of(model)[1].get("quantize"))


def shape(name: str):
    """The Hugging Face configuration of one of `SHAPES`; raises `UserError` for another name."""
    check_known("shape", name, SHAPES)
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
    """What was measured. In seconds: a ``thought`` with its reply, a ``reply`` and a ``token``, and
    of a token ``reading`` and ``gradients`` (NaN: its inside cannot be read). In tokens: a
    ``prompt``, a ``conversation`` with thought, an ``example`` of a corpus. ``heads``: how many."""

    thought: float
    reply: float
    token: float
    prompt: float
    conversation: float
    reading: float = float("nan")
    gradients: float = float("nan")
    example: float = 0.0
    heads: int = 0


def measure(study: StudyModel, room: int = USUAL, together: int = TOGETHER) -> Speed:
    """Time what chapters do, with replies of at most ``room`` tokens, ``together`` at once."""
    prompts = Evaluation(prompts={} if study.invented else ENGLISH).sets(n=2)
    prompts = pd.concat([prompts] * -(-together // len(prompts)))[:together]
    prompts["prompt_id"] = [*map(str, range(together))]

    def written(mode: str, most: int) -> tuple[float, int]:
        start, options = perf_counter(), {"batch_size": together, "progress": False}
        replies = generate(study, prompts, mode, max_new_tokens=most, **options)
        longest = most if replies[CUT].any() else int(replies["n_tokens"].max()) + 1
        return (perf_counter() - start) / together, longest

    written("no-think", 2)  # the first call also allocates
    (thought, thinks), (reply, replies) = (written(mode, room) for mode in MODES)
    items = [study.chat.encode(text, "no-think") for text in prompts["text"]]
    prompts["length"] = [len(item.ids) for item in items]
    size = prompts.query("kind in ['harmful', 'harmless']")["length"].mean()  # mostly read
    found = Speed(thought, reply, reply / replies, size, size + thinks)
    if why_closed(study.hf):
        return found
    start = perf_counter()
    read(study, items)
    reading = (perf_counter() - start) / prompts["length"].sum()
    learned = encode_corpus(study, load_corpus("multi-hop", english=not study.invented))
    learned, tuned = learned[:: -(-len(learned) // 8)], adapted(deepcopy(study.hf))
    example, start = sum(len(ids) for ids, _ in learned) / len(learned), perf_counter()
    batch_loss(tuned, learned, study.pad_id)
    gradients = (perf_counter() - start) / example / len(learned)
    heads = architecture(study).n_layers * architecture(study).n_heads
    return found._replace(reading=reading, gradients=gradients, example=example, heads=heads)


def minutes(speed: Speed, room: int = USUAL) -> pd.DataFrame:
    """``chapter, minutes`` with replies of ``room`` tokens; NaN: it needs a closed inside."""
    work = pd.DataFrame(CHAPTERS.values(), CHAPTERS)
    read = speed.prompt * (work["read"] + work["swept"] * speed.heads / 2)
    read += speed.conversation * work["read_thoughts"]
    learned = speed.prompt * work["gradients"] + speed.example * work["trained"]
    inside = read * speed.reading + learned * speed.gradients
    longest = min(speed.reply / speed.token, REPLY if room > USUAL else SHORT)
    written = work["thoughts"] * speed.thought + work["replies"] * speed.reply
    inside = inside.where(work[[*Work._fields[3:]]].any(axis=1), 0)
    seconds = written + work["tokens"] * speed.token * longest / SHORT + inside
    return (seconds / 60).rename_axis("chapter").reset_index(name="minutes")


def report(model: str, gpu: str | None = None, tokens: int = 0, calibrate: bool = False) -> Iterator:
    """The lines and tables that ``rimkit plan`` prints; raises `UserError` as `plan` and `load`.
    Without ``tokens``: conversations of 1024, and chapters as they run without more room."""
    asked = tokens or 1024
    needs, table = plan(model, gpu, asked)
    large = needs.parameters >= 1e9
    size, unit = needs.parameters / (1e9 if large else 1e6), "billion" if large else "million"
    cache = f"{needs.cache('bfloat16', 1) / 1024:.3g} KiB per token in 16 bits"
    yield f"{model}: {size:.3g} {unit} parameters in {needs.layers} layers; keys and values take {cache}"
    yield f"At once: conversations of {asked} tokens (prompt and reply); weights are exact, all else is estimated."
    forms = {"memory": "{:4.1f}", "weights": "{:7.1f}", "generate": "{:8}", "read": "{:5}", "gradients": "{:9}"}
    shown = {name: table[name].map(forms.get(name, "{}").format) for name in COLUMNS}
    yield pd.DataFrame(shown).rename(columns={"memory": "GiB"})
    for row in table.itertuples():
        if row.generate and not row.gradients:
            yield f"{row.device}: {with_gradients(needs, row, options_of(model)[1].get('quantize'))}"
    if not calibrate:
        return
    study, room = load(model), max(USUAL, tokens - PROMPT)
    fits, *_ = device.at_once(needs, device.free_bytes(study.device), study.dtype, asked)
    speed = measure(study, room, max(1, min(fits, 36 if study.device == "cpu" else TOGETHER)))
    prompts, learned = (1 / each / speed.prompt for each in (speed.reading, speed.gradients))
    written = f"{1 / speed.token:.0f} tokens written per second in batches"
    also = f"{prompts:.1f} prompts read, {learned:.1f} with gradients"
    yield f"Measured on {study.device} in {study.dtype}: {written}, {also}."
    longer = f" --max-new-tokens {room}" if room > USUAL else ""
    yield f"Minutes per chapter at the default parameters, `rimkit run --model {model}{longer}`:"
    yield minutes(speed, room).assign(minutes=lambda table: table["minutes"].map("{:7.1f}".format))


def with_gradients(needs: Needs, row: tuple, quantize: str | None) -> str:
    """With how many tokens gradients fit a row of `devices` where they do not, and what helps."""
    ways = {"as it is": quantize} | ({} if quantize or "CPU" in row.device else {"with +4bit": "4bit"})
    free = {way: row.memory - device.RESERVED - needs.weights(row.dtype, four) / GIB for way, four in ways.items()}
    one = needs.gradients(row.dtype, 1) / GIB
    said = " and ".join(f"{more / one:.0f} tokens {way}" for way, more in free.items() if more > one)
    return f"gradients fit for up to {said}" if said else "gradients need a larger device"
