"""From a name, a folder, a hub id or a model in memory to one model under study.

It puts together what the other files know: names and files (`hub`), device and size (`device`), the
chat format (`chat`). It also makes models of a given shape that have learned nothing.
"""

import warnings
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rimkit.data import UserError, check_known, one_line
from rimkit.models import chat, gguf, hub, ndif
from rimkit.models import device as places
from rimkit.models.chat import ChatFormat
from rimkit.models.endpoint import PREFIX, connect, is_endpoint, shown_at_endpoint, split_name
from rimkit.models.hooks import why_closed
from rimkit.models.study import StudyModel
from rimkit.models.thoughts import TODAY

DATED = f"its template writes the date, which is always {TODAY:%d %B %Y} here, so that a run can be repeated"
ROUNDED = "its weights are rounded to 4 bits: replies and internals are those of the rounded model"
MOST_LAYERS = 6  # of a deeper untrained model: enough for a control beside the model itself


def load(
    model, tokenizer=None, *, device: str | None = None, dtype=None, revision: str | None = None,
    think: bool | str = True, quantize: str | None = None, remote: str = "",
) -> StudyModel:  # fmt: skip
    """The model under study, in evaluation mode, with sdpa attention where the architecture has it.
    ``model``: an embedded name (``"rim-mini"``; ``"rim-mini:1"`` is seed 1), a local folder, a hub
    id (``"owner/name"``, with an optional ``revision``), ``"endpoint:MODEL@http://host:port/v1"``
    (`rimkit.models.endpoint`), or a Hugging Face module in memory, which needs its ``tokenizer``
    and stays where it is unless ``device`` or ``dtype`` (see `choose_device`; ``"auto"``: on
    several GPUs) is given. An embedded name goes before a folder of that name (write ``./name``).
    Options may follow a name, as part of it in every table: ``+instruct``, ``+4bit`` …

    ``think``: True asks for a think mode of the model's own; False accepts a model without one, for
    no-think mode only; ``"instruct"`` lets such a model think by instruction in the user's turn;
    ``"soft"`` turns thinking off by ``/no_think`` in the user's turn, as Qwen3 understands it;
    ``"detailed"`` turns it on and off by words of the system prompt, as Nemotron understands them.
    ``quantize="4bit"`` needs an NVIDIA GPU and bitsandbytes. ``remote="ndif"``: no weights are
    loaded, and traces run on NDIF (`rimkit.models.ndif`); ``"local"`` is a dry run of that.

    Raises ``UserError`` for a model that is unknown, out of reach, not complete, too large, or that
    does not go with its tokenizer, the options or ``think``."""
    if remote == "local":
        return ndif.dry_run(load(model, think=think))
    if remote:
        ndif.check_served(model, revision, remote)
        return ndif.connect(model, revision, think)
    if isinstance(model, StudyModel):
        return model
    if is_endpoint(model):
        return connect(model, tokenizer)
    model, options = hub.options_of(model)
    think, quantize = options.get("think", think), options.get("quantize", quantize)
    check_known("think", think, chat.ASKED)
    if dtype is not None:  # a text, or torch's
        check_known("dtype", dtype := str(dtype).removeprefix("torch."), places.BYTES)
    notes = []
    if isinstance(model, str | Path):
        found, place = hub.locate(model, revision), places.choose_here(device, dtype, quantize)
        name, notes = found.name, [ROUNDED] if quantize else []
        tokenizer = hub.read(AutoTokenizer, found) if tokenizer is None else tokenizer
        place = places.check_fits(name, found.source, hub.read(AutoConfig, found), place)
        settings = places.settings_of(place)
        hf = hub.read_weights(AutoModelForCausalLM, found, **settings)
        places.check_spread(name, hf)
        hf = merge(hf, found.adapter, found.source) if found.adapter else hf
        hf = hf if "device_map" in settings else hf.to(place.device)
    elif tokenizer is None:
        raise UserError("a model in memory needs its tokenizer: load(model, tokenizer)")
    elif quantize is not None:
        raise UserError("a model in memory keeps its numbers: load it by its name for 4 bits")
    else:
        name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        hf = places.move(model, device, dtype)
    study = _study(hub.with_options(name, think, quantize), hf, tokenizer, think)
    if isinstance(model, str | Path):
        study.name = hub.shown_name(found, think, quantize)
        notes += [gguf.note(found.source) if (Path(found.source) / gguf.RECORD).is_file() else None]
        notes += [chat.NOTES.get(study.chat.thinking), study.chat.template.dated and DATED]
    closed = why_closed(hf)
    for note in (closed and f"{closed}; chapters 00 to 02 need only its replies", *notes):
        if note:
            print(f"{study.name}: {note}")
    return study


def merge(hf, adapter: str, base: str):
    """``hf``, the module of ``base``, with a peft adapter in its weights. Raises `UserError` if it
    does not fit: all of its tensors, and no others, are those of its layers."""
    from peft import PeftModel, get_peft_model_state_dict

    folder = hub.adapter_folder(adapter)
    hub.check_unmixed(folder)
    try:
        if not (folder / hub.ADAPTED).is_file():
            raise ValueError(f"it has no {hub.ADAPTED}; a pickle can run code: save its weights as safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say of tensors is checked here
            wrapped = PeftModel.from_pretrained(hf, folder)
            stored = load_file(folder / hub.ADAPTED)
            odd = set(stored) ^ set(get_peft_model_state_dict(wrapped))
        config = wrapped.peft_config["default"]
        prompts = "it adds to prompts alone" if config.is_prompt_learning else ""
        if problem := prompts or hub.not_finite(stored):
            raise ValueError(problem)
        if odd:
            raise ValueError(f"{len(odd)} of its tensors are missing or of other layers, as {min(odd)}")
        moved = any(tensor.any() for name, tensor in stored.items() if ".lora_A." not in name)
        if not moved or getattr(config, "lora_alpha", 1) == 0:
            print(f"note: the adapter {adapter} changes nothing: its weights, or their scale, are zero")
        shared = [hf.get_input_embeddings(), hf.get_output_embeddings()]
        ends = [name for name, module in hf.named_modules() if module in shared]
        if hub.tied(hf) and any(f".{end}." in name for end in ends for name in stored):
            both = f"{' and '.join(ends)}, which share their weights"
            raise ValueError(f"it changes one of {both}: merged, it would change both")
        made_for, here = config.base_model_name_or_path, hf.config._name_or_path
        known = {hub.identity(name) for name in (made_for or here, here)}
        if len(known) > 1 and "" not in known:
            raise ValueError(f"it was made for {made_for}")
        if "" in known and made_for != here:
            print(f"note: the adapter {adapter} says that it was made for {made_for}, not for {base}")
        return wrapped.merge_and_unload().eval()
    except Exception as error:  # files from elsewhere: whatever is wrong with them
        reason = one_line(error).rpartition("PeftModelForCausalLM: ")[2]
        raise UserError(f"the adapter {adapter} does not fit {base}: {reason}") from error


def name_of(model: str) -> str:
    """How tables name the model that `load` gives for this name, without loading it or showing a
    path; of one that is not there, the last part of what was asked for."""
    if is_endpoint(model):
        return shown_at_endpoint(split_name(model.removeprefix(PREFIX))[0])
    plain, options = hub.options_of(model)
    try:
        return hub.shown_name(hub.locate(plain, weights=False), **options)
    except UserError:
        return Path(model).name


def chat_of(model: str) -> ChatFormat:
    """The chat format of a model by name, options included, without its weights. Raises
    `UserError`, also for an architecture that is unknown or writes no text."""
    name, options = hub.options_of(model)
    found = hub.locate(name)
    if type(config := hub.read(AutoConfig, found)) not in AutoModelForCausalLM._model_mapping:
        kind = f"transformers has no causal language model '{config.model_type}'"
        raise UserError(f"{model} generates no text: {kind}")
    tokenizer = hub.read(AutoTokenizer, found)
    try:
        return ChatFormat(tokenizer, think=options.get("think", True))
    except UserError as error:
        raise UserError(f"{model}: {error}") from None


def check_weights(model: str) -> None:
    """Raise `UserError` for a model in a folder, by name, whose weights are not those of its
    configuration and tokenizer; no numbers are read."""
    found, format = hub.locate(hub.options_of(model)[0]), chat_of(model)
    if found.in_folder and not hasattr(hub.read(AutoConfig, found), "quantization_config"):
        hf = hub.read_weights(AutoModelForCausalLM, found, device_map="meta")
        _check_match(found.name, hf, format.tokenizer, format)


def speaks_invented(model: str) -> bool:
    """Whether a model, by name, speaks the invented language of the embedded models."""
    if is_endpoint(model):
        return connect(model).invented
    found = hub.locate(hub.options_of(model)[0], weights=False)
    with suppress(UserError):  # without a tokenizer: `load` says so
        return hub.read(AutoTokenizer, found).init_kwargs.get("language") == "invented"
    return False


def config_of(model: str):
    """The Hugging Face configuration of a model by name, without its weights."""
    return hub.read(AutoConfig, hub.locate(hub.options_of(model)[0], weights=False))


def untrained(study: StudyModel, seed: int = 0, layers: int = MOST_LAYERS) -> StudyModel:
    """Random weights in the widths of ``study``, with its tokenizer, in at most ``layers`` layers.
    Drawn as the architecture draws them before training, from ``seed``, on its device (for a model
    that runs elsewhere: this machine's). Raises ``UserError`` where they do not fit there."""
    config = deepcopy(study.nn._module.config)
    config.num_hidden_layers = min(layers, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    device, dtype = places.choose_here(None, None)[:2] if study.elsewhere else (study.device, study.dtype)
    needed, free = places.needs_of(config).weights(dtype), places.free_bytes(device)
    if needed > free:
        there = f"{needed / places.GIB:.1f} GiB, and {device} has {free / places.GIB:.1f} GiB free"
        raise UserError(f"{config.num_hidden_layers} layers of random weights like those of {study.name} take {there}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = AutoModelForCausalLM.from_config(config)
    found = load(hf, study.tokenizer, device=device, dtype=dtype, think=study.chat.asked)
    return replace(found, name=f"{study.name.replace(':', '-')} untrained:{seed}")


def _study(name: str, hf, tokenizer, think: bool | str) -> StudyModel:
    from nnsight import TransformersModel

    stop = hf.generation_config.eos_token_id if hf.can_generate() else None
    chat = ChatFormat(tokenizer, stop_ids=stop if isinstance(stop, list) else [stop], think=think)
    if think and not chat.supports_think:
        raise UserError(f"{name} has no think mode: {chat.reason}; {chat.ways_out(name)}")
    _check_match(name, hf, tokenizer, chat)
    return StudyModel.of(name, TransformersModel(hf.eval(), tokenizer=tokenizer), tokenizer, chat)


def _check_match(name: str, hf, tokenizer, chat: ChatFormat) -> None:
    """Raise ``UserError`` for sizes that cannot be, and for tokens without an embedding. Added ones
    that no conversation uses may lie outside (Gemma 3's text models have one for images)."""
    sizes = hf.config.get_text_config()
    heads, groups = (getattr(sizes, f"num_{kind}_heads", None) or 1 for kind in ("attention", "key_value"))
    if sizes.num_hidden_layers < 1 or heads % groups:
        has = f"{sizes.num_hidden_layers} layers with {heads} heads that share {groups} of keys"
        raise UserError(f"{name}: its configuration asks for {has}, which cannot be computed")
    rows = hf.get_input_embeddings().weight.shape[0]
    apart = "they do not belong together"
    if tokenizer.vocab_size > rows:
        sizes = f"the tokenizer has {tokenizer.vocab_size} tokens and the model embeds {rows}"
        raise UserError(f"{name}: {sizes}: {apart}")
    used = {getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad", "unk")} - {None}
    for mode in ("think", "no-think") if chat.supports_think else ("no-think",):
        used |= set(chat.encode("a", mode).ids)
    outside = [index for index in used if not 0 <= index < rows]
    if outside:
        token = f"{tokenizer.convert_ids_to_tokens(max(outside))!r} is token {max(outside)}"
        has = f"the model embeds {rows} (0 to {rows - 1})"
        raise UserError(f"{name}: the tokenizer's {token} and {has}: {apart}")
