"""Models of a given shape that have learned nothing: what a method finds in them is not knowledge of the model."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from rimkit.errors import UserError
from rimkit.models.fitting import GIB, free_bytes, needs_of
from rimkit.models.loading import StudyModel, load
from rimkit.models.placing import choose_here

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
