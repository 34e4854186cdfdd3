"""A tiny random Qwen3 that speaks the language's tokens, and a conversation format to break."""

from functools import cache

QWEN_FRAME = """{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt }}"""
OPENS_ITSELF = QWEN_FRAME + (
    "{%- set off = enable_thinking is defined and not enable_thinking %}"
    "{{- '<think>\\n\\n</think>\\n\\n' if off else '<think>\\n' }}"
)


def random_model(tokenizer, seed: int = 0, layers: int = 2):
    """Random weights, large enough that the distributions are not flat."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
        tie_word_embeddings=True, initializer_range=0.3, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def tokenizer(template: str | None = None):
    from rimkit.organism.language import build_tokenizer

    built = build_tokenizer()
    built.chat_template = built.chat_template if template is None else template
    return built


def save(folder, template: str | None = None, seed: int = 0):
    """The folder of a tiny model, as a user would bring it."""
    words = tokenizer(template)
    random_model(words, seed).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@cache
def study():
    from rimkit.models.load import load

    words = tokenizer()
    return load(random_model(words), words)
