"""From a name, a folder, a hub id or a model in memory to one model under study.

Do a tokenizer and a model belong together?

Models of a given shape that have learned nothing: what a method finds in them is not knowledge of the model.
"""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rimkit.data import UserError
from rimkit.models import chat, ndif
from rimkit.models.chat import ChatFormat
from rimkit.models.device import (
    GIB,
    Place,
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
from rimkit.models.hub import check_hub, locate, options_of, refusal, with_options
from rimkit.models.study import StudyModel

if TYPE_CHECKING:
    pass


# -- models.loading ----------


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
    """The model under study, in evaluation mode, with sdpa attention (eager for architectures without it).

    ``model``: an embedded name (``"rim-mini"``; ``"rim-mini:1"`` is seed 1), a local folder, a hub id
    (``"owner/name"``, with an optional ``revision``), or a Hugging Face module in memory, which needs its
    ``tokenizer`` and stays where it is unless ``device`` or ``dtype`` is given. An embedded name goes
    before a folder of that name (write ``./name`` for the folder). Options may follow a name, and are part of the
    model's name in every table: ``+instruct``, ``+soft`` and ``+4bit`` (``"owner/name+instruct+4bit"``).

    ``device`` and ``dtype`` (``"float32"``, ``"bfloat16"``, ``"float16"``): see ``choose_device``; ``"auto"`` spreads
    the model over several GPUs, and so does a model that is too large for the first one. ``quantize="4bit"`` rounds
    the weights to four bits, which needs an NVIDIA GPU and bitsandbytes. No code from a model repository is run.
    ``"endpoint:MODEL@http://host:port/v1"`` gives a `rimkit.models.endpoint.EndpointModel`: replies only.

    ``think``: True asks for a think mode of the model's own (a switch in its template, or a template that opens every
    thought); False accepts a model without one, for no-think mode only; ``"instruct"`` lets such a model think by
    instruction in the user's turn, with a forced beginning of the thought; ``"soft"`` sets a model with a switch to
    no-think by ``/no_think`` in the user's turn instead, which only models trained on it understand (Qwen3's).
    ``StudyModel.chat.thinking`` names the way.

    ``remote="ndif"``: no weights are loaded, and what is traced runs on NDIF (`rimkit.models.ndif`); "local" is a
    dry run of that.

    Raises ``UserError``: unknown name, option or revision, folder without configuration or safetensors weights, hub not
    reachable or without access, tokenizer without chat template or of another model, no think mode although ``think``,
    weights too large for the device.
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
        name, source, offline = locate(model, revision)
        place = choose_here(device, dtype, quantize)
        name = with_options(name, think, quantize)
        hf, tokenizer = _read(name, source, tokenizer, offline, revision, place)
    else:
        if tokenizer is None:
            raise UserError("a model in memory needs its tokenizer: load(model, tokenizer)")
        if quantize is not None:
            raise UserError("a model in memory keeps its numbers: load it by its name to round it to 4 bits")
        source, name = None, with_options(getattr(model.config, "_name_or_path", "") or type(model).__name__, think)
        hf = move(model, device, dtype)
    study = _study(name, hf.eval(), tokenizer, think)
    _say(study, quantize, by_name=source is not None)
    return study


def chat_of(model: str) -> ChatFormat:
    """The chat format of a model by name, options included, without its weights; raises ``UserError`` as `load`."""
    from transformers import AutoTokenizer

    name, options = options_of(model)
    name, source, offline = locate(name)
    tokenizer = _on_or_off(name, source, offline, None, lambda **where: AutoTokenizer.from_pretrained(source, **where))
    try:
        return ChatFormat(tokenizer, think=options.get("think", True))
    except UserError as error:
        raise UserError(f"{model}: {error}") from None


def config_of(model: str):
    """The Hugging Face configuration of a model by name, without its weights; raises ``UserError`` as `load`."""
    from transformers import AutoConfig

    name, source, offline = locate(options_of(model)[0], weights=False)
    return _on_or_off(name, source, offline, None, lambda **where: AutoConfig.from_pretrained(source, **where))


def _say(study: StudyModel, quantize: str | None, by_name: bool) -> None:
    """What a reader of this model's numbers should know, a line each."""
    from rimkit.models.hooks import why_closed

    closed = why_closed(study.hf)
    notes = [
        f"{closed}; chapters 00 to 02 need only its replies" if closed else "",
        chat.NOTES.get(study.chat.thinking, "") if by_name else "",
        "its weights are rounded to 4 bits: replies and internals are those of the rounded model" if quantize else "",
    ]
    for note in filter(None, notes):
        print(f"{study.name}: {note}")


# -- reading -----------------------------------------------------------------------------------------------


def _read(name: str, source: str, tokenizer, offline: bool, revision: str | None, place: Place):
    """The Hugging Face module and its tokenizer; from the cache where that is complete, else from the hub."""

    def read(local_files_only: bool, revision: str | None):
        return _from_pretrained(source, tokenizer, local_files_only, revision, place, name)

    return _on_or_off(name, source, offline, revision, read)


def _on_or_off(name: str, source: str, offline: bool, revision: str | None, read):
    """``read(local_files_only=…, revision=…)`` from this machine, and where that fails from the hub."""
    from safetensors import SafetensorError

    on_hub, failure = not Path(source).is_dir(), None
    for local in [True] * offline + [False] * on_hub:
        try:
            if not local:
                check_hub(source, revision)
            return read(local_files_only=local, revision=revision)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            if isinstance(error, UserError):
                raise
            failure = error
    said = refusal(source, revision, failure) if on_hub else ""
    reason = str(failure).strip().partition("\n")[0] or type(failure).__name__
    raise UserError(said or f"{name} could not be loaded: {reason}") from failure


def _from_pretrained(source: str, tokenizer, local: bool, revision: str | None, place: Place, name: str):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"local_files_only": local, "revision": revision}
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
    place = check_fits(name, source, AutoConfig.from_pretrained(source, **where), place)
    settings = settings_of(place) | {"use_safetensors": True}  # sdpa, where the architecture has it
    with _quiet():
        hf, report = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **settings, **where)
    missing = sorted(report["missing_keys"])  # transformers would go on with random numbers in their place
    if missing:
        raise ValueError(f"its weights lack {len(missing)} tensor(s), among them {missing[0]}")
    check_spread(name, hf)
    return (hf if "device_map" in settings else hf.to(place.device)), tokenizer


@contextmanager
def _quiet():
    """Without the bar and the report that reading weights prints (downloads keep their bars)."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _study(name: str, hf, tokenizer, think: bool | str) -> StudyModel:
    from nnsight import TransformersModel

    stop = hf.generation_config.eos_token_id if hf.can_generate() else None
    chat = ChatFormat(tokenizer, stop_ids=stop if isinstance(stop, list) else [stop], think=think)
    if think and not chat.supports_think:
        raise UserError(
            f"{name} has no think mode: {chat.reason}; load it as '{name}+instruct' (think=\"instruct\") to let it "
            "think by instruction, or with think=False for no-think mode only"
        )
    check_match(name, hf, tokenizer, chat)
    nn = TransformersModel(hf, tokenizer=tokenizer)
    config = hf.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else chat.stop_ids[0]
    return StudyModel(name, nn, tokenizer, chat, int(context), pad_id)


# -- models.matching ----------
def check_match(name: str, hf, tokenizer, chat: ChatFormat) -> None:
    """Raise ``UserError`` if the tokenizer can write ids that the model has no embedding for.

    Added tokens that no conversation uses may lie outside (Gemma 3's text models have one for images); the vocabulary
    itself, the special tokens and all that the chat template writes may not.
    """
    rows = hf.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens and the model embeds {rows}: "
            "they do not belong together"
        )
    used = {index: _text(tokenizer, index) for index in _special(tokenizer)}
    for mode in ("think", "no-think") if chat.supports_think else ("no-think",):
        used |= {index: _text(tokenizer, index) for index in chat.encode("a", mode).ids}
    outside = {index: text for index, text in used.items() if not 0 <= index < rows}
    if outside:
        index, text = max(outside.items())
        raise UserError(
            f"{name}: the tokenizer's {text!r} is token {index} and the model embeds {rows} (0 to {rows - 1}): "
            "they do not belong together"
        )


def _special(tokenizer) -> set[int]:
    named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return {index for index in named if index is not None}


def _text(tokenizer, index: int) -> str:
    try:
        return str(tokenizer.convert_ids_to_tokens(index))
    except (IndexError, OverflowError, TypeError):  # an id that the tokenizer itself does not know
        return "end of turn"


# -- models.untrained ----------
MOST_LAYERS = 6  # of a deeper model only as many: enough for a control, and it fits beside the model itself


def untrained(study: StudyModel, seed: int = 0, layers: int = MOST_LAYERS) -> StudyModel:
    """Random weights in the widths, the tokenizer and the chat format of ``study``, with at most ``layers`` layers.

    Drawn as the architecture draws them before training, from ``seed``; same device and number format (for a model that
    runs elsewhere: those of this machine). Raises ``UserError`` where they do not fit beside the model.
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
