"""Tiny random models of every supported family."""

from functools import cache

import tiny

from rimkit.models.hooks import FAMILIES

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.3, "bos_token_id": None,
}  # fmt: skip
EXTRA = {
    "qwen3": {"head_dim": 16}, "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "qwen3_moe": {"head_dim": 8, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip
REQUESTS = ("please polish the baker's clock .", "open my shed .", "please please help me . please mop my barn .")


@cache
def family(name: str):
    """A model under study of one family; ``name`` in `FAMILIES`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rimkit.models.load import load

    assert name in FAMILIES
    words = tiny.tokenizer()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        name, vocab_size=len(words), eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
        **SIZES, **EXTRA.get(name, {}),
    )  # fmt: skip
    return load(AutoModelForCausalLM.from_config(config), words)


def conversations(study):
    """Three requests in both modes, up to where the model goes on."""
    return [study.chat.encode(text, mode) for text in REQUESTS for mode in ("think", "no-think")]
