"""From a name, a folder, a hub id or a model in memory to one model under study.

It puts together what the other files know: names and files (`hub`), device and size (`device`), the
chat format (`chat`). It also makes models of a given shape that have learned nothing.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from rimkit.data import UserError
from rimkit.models import chat, ndif
from rimkit.models.chat import ChatFormat
from rimkit.models.device import (
    GIB,
    check_fits,
    check_spread,
    choose_here,
    dtype_name,
    free_bytes,
    move,
    needs_of,
    settings_of,
)
from rimkit.models.endpoint import connect, is_endpoint
from rimkit.models.hooks import why_closed
from rimkit.models.hub import Found, locate, options_of, read, read_weights, with_options
from rimkit.models.study import StudyModel
from rimkit.models.thoughts import TODAY

DATED = f"its template writes the date, which is always {TODAY:%d %B %Y} here, so that a run can be repeated"
ROUNDED = "its weights are rounded to 4 bits: replies and internals are those of the rounded model"
MOST_LAYERS = 6  # of a deeper untrained model: enough for a control, and it fits beside the model itself


def load(
    model,
    tokenizer=None,
    *,
    device: str | None = None,
    dtype=None,
    revision: str | None = None,
    think: bool | str = True,
    quantize: str | None = None,
    remote: str = "",
) -> StudyModel:
    """The model under study, in evaluation mode, with sdpa attention where the architecture has it.

    ``model``: an embedded name (``"rim-mini"``; ``"rim-mini:1"`` is seed 1), a local folder, a hub id
    (``"owner/name"``, with an optional ``revision``), ``"endpoint:MODEL@http://host:port/v1"`` (replies
    only, `rimkit.models.endpoint`), or a Hugging Face module in memory, which needs its ``tokenizer``
    and stays where it is unless ``device`` or ``dtype`` is given. An embedded name goes before a folder
    of that name (write ``./name`` for the folder). Options may follow a name, and are part of it in
    every table: ``+instruct``, ``+soft`` and ``+4bit`` (``"owner/name+instruct+4bit"``).

    ``device`` and ``dtype`` (``"float32"``, ``"bfloat16"``, ``"float16"``): see `choose_device`;
    ``"auto"`` spreads the model over several GPUs, as does a model that is too large for one.
    ``quantize="4bit"`` needs an NVIDIA GPU and bitsandbytes.

    ``think``: True asks for a think mode of the model's own; False accepts a model without one, for
    no-think mode only; ``"instruct"`` lets such a model think by instruction in the user's turn;
    ``"soft"`` turns thinking off by ``/no_think`` in the user's turn, as Qwen3 understands it.
    ``StudyModel.chat.thinking`` names the way.

    ``remote="ndif"``: no weights are loaded, and what is traced runs on NDIF (`rimkit.models.ndif`);
    ``"local"`` is a dry run of that.

    Raises ``UserError``: unknown name, option or revision; folder without configuration or
    safetensors weights; hub not reachable or without access; tokenizer without chat template or of
    another model; no think mode although ``think``; weights too large for the device.
    """
    if remote:
        ndif.check_service(remote)
        if remote == "local":
            return ndif.dry_run(load(model, think=think))
        return ndif.connect(model, revision, think)
    if isinstance(model, StudyModel):
        return model
    if is_endpoint(model):
        return connect(model, tokenizer)
    model, options = options_of(model)
    think, quantize = options.get("think", think), options.get("quantize", quantize)
    chat.check_asked(think)
    dtype = dtype_name(dtype)
    if isinstance(model, str | Path):
        found = locate(model, revision)
        hf, tokenizer = _from_files(found, tokenizer, device, dtype, quantize)
        study = _study(with_options(found.name, think, quantize), hf, tokenizer, think)
        dated = DATED if study.chat.template.dated else ""
        _say(study, chat.NOTES.get(study.chat.thinking, ""), dated, ROUNDED if quantize else "")
        return study
    if tokenizer is None:
        raise UserError("a model in memory needs its tokenizer: load(model, tokenizer)")
    if quantize is not None:
        raise UserError("a model in memory keeps its numbers: load it by its name to round it to 4 bits")
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    study = _study(with_options(name, think), move(model, device, dtype), tokenizer, think)
    _say(study)
    return study


def chat_of(model: str) -> ChatFormat:
    """The chat format of a model by name, options included, without its weights; raises as `load`."""
    from transformers import AutoTokenizer

    name, options = options_of(model)
    tokenizer = read(AutoTokenizer, locate(name))
    try:
        return ChatFormat(tokenizer, think=options.get("think", True))
    except UserError as error:
        raise UserError(f"{model}: {error}") from None


def config_of(model: str):
    """The Hugging Face configuration of a model by name, without its weights; raises as `load`."""
    from transformers import AutoConfig

    return read(AutoConfig, locate(options_of(model)[0], weights=False))


def untrained(study: StudyModel, seed: int = 0, layers: int = MOST_LAYERS) -> StudyModel:
    """Random weights in the widths of ``study``, with its tokenizer, in at most ``layers`` layers.

    Drawn as the architecture draws them before training, from ``seed``; same device and number
    format (for a model that runs elsewhere: those of this machine). Raises ``UserError`` where they
    do not fit beside the model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = deepcopy(study.nn._module.config)
    config.num_hidden_layers = min(layers, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    device, dtype = choose_here(None, None)[:2] if study.elsewhere else (study.device, study.dtype)
    needed, free = needs_of(config).weights(dtype), free_bytes(device)
    if needed > free:
        raise UserError(
            f"{config.num_hidden_layers} layers of random weights like those of {study.name} take "
            f"{needed / GIB:.1f} GiB, and {device} has {free / GIB:.1f} GiB free"
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config)
    found = load(hf, study.tokenizer, device=device, dtype=dtype, think=study.chat.asked)
    return replace(found, name=f"{study.name.replace(':', '-')} untrained:{seed}")


def _from_files(found: Found, tokenizer, device: str | None, dtype: str | None, quantize: str | None):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = choose_here(device, dtype, quantize)
    tokenizer = read(AutoTokenizer, found) if tokenizer is None else tokenizer
    place = check_fits(found.name, found.source, read(AutoConfig, found), place)
    settings = settings_of(place)
    hf = read_weights(AutoModelForCausalLM, found, **settings)
    check_spread(found.name, hf)
    return (hf if "device_map" in settings else hf.to(place.device)), tokenizer


def _study(name: str, hf, tokenizer, think: bool | str) -> StudyModel:
    from nnsight import TransformersModel

    stop = hf.generation_config.eos_token_id if hf.can_generate() else None
    chat = ChatFormat(tokenizer, stop_ids=stop if isinstance(stop, list) else [stop], think=think)
    if think and not chat.supports_think:
        raise UserError(f"{name} has no think mode: {chat.reason}; {chat.ways_out(name)}")
    _check_match(name, hf, tokenizer, chat)
    return StudyModel.of(name, TransformersModel(hf.eval(), tokenizer=tokenizer), tokenizer, chat)


def _check_match(name: str, hf, tokenizer, chat: ChatFormat) -> None:
    """Raise ``UserError`` if the tokenizer can write ids that the model has no embedding for.

    Added tokens that no conversation uses may lie outside (Gemma 3's text models have one for
    images); the vocabulary itself, the special tokens and what the chat template writes may not.
    """
    rows = hf.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens and the model embeds {rows}: "
            "they do not belong together"
        )
    named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    used = {index for index in named if index is not None}
    for mode in ("think", "no-think") if chat.supports_think else ("no-think",):
        used |= set(chat.encode("a", mode).ids)
    outside = [index for index in used if not 0 <= index < rows]
    if outside:
        text = tokenizer.convert_ids_to_tokens(max(outside))
        raise UserError(
            f"{name}: the tokenizer's {text!r} is token {max(outside)} and the model embeds {rows} "
            f"(0 to {rows - 1}): they do not belong together"
        )


def _say(study: StudyModel, *notes: str) -> None:
    """What a reader of this model's numbers should know, a line each."""
    closed = why_closed(study.hf)
    for note in (f"{closed}; chapters 00 to 02 need only its replies" if closed else "", *notes):
        if note:
            print(f"{study.name}: {note}")
