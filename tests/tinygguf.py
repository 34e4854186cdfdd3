"""A tiny random model in a GGUF file, with a tokenizer of single bytes."""

from pathlib import Path

import gguf as writer
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

HIDDEN, HEADS, LAYERS, MLP = 32, 4, 2, 64
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


QWEN3_HEAD = 128  # of all its sizes: transformers does not read another one from the file
# What an architecture has in a layer beside what Llama has.
OWN = {
    "qwen2": {"attn_q.bias": (HIDDEN,), "attn_k.bias": (HIDDEN // 2,), "attn_v.bias": (HIDDEN // 2,)},
    "qwen3": {"attn_q_norm": (QWEN3_HEAD,), "attn_k_norm": (QWEN3_HEAD,)},
}


def write(
    path: Path, architecture: str = "llama", kind=writer.GGMLQuantizationType.Q8_0, bare: bool = False,
    context: int = 256,
) -> Path:  # fmt: skip
    """A random model with a tokenizer of single bytes; ``bare``: without what is its architecture's own."""
    head = QWEN3_HEAD if architecture == "qwen3" else HIDDEN // HEADS
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ab"]
    file, draw = writer.GGUFWriter(path, architecture), np.random.default_rng(0)
    file.add_name("tiny")
    file.add_license("apache-2.0")
    file.add_context_length(context)
    file.add_embedding_length(HIDDEN)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(MLP)
    file.add_head_count(HEADS)
    file.add_head_count_kv(2)
    file.add_key_length(head)
    file.add_value_length(head)
    file.add_rope_dimension_count(head)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(words))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("smollm")
    file.add_token_list(words)
    file.add_token_types([3, 3, 3, *[1] * (len(words) - 3)])
    file.add_token_merges(["a b"])
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_pad_token_id(2)
    file.add_chat_template(TEMPLATE)

    def add(name: str, *shape: int) -> None:
        weight = draw.normal(0, 0.1, shape).astype(np.float32)
        if len(shape) == 1:
            file.add_tensor(name, weight + 1)
        else:
            file.add_tensor(name, writer.quantize(weight, kind), raw_dtype=kind)

    add("token_embd.weight", len(words), HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        shapes = {"attn_q": (HEADS * head, HIDDEN), "attn_k": (2 * head, HIDDEN), "attn_v": (2 * head, HIDDEN)}
        shapes |= {"attn_output": (HIDDEN, HEADS * head), "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        shapes |= {"ffn_gate": (MLP, HIDDEN), "ffn_up": (MLP, HIDDEN), "ffn_down": (HIDDEN, MLP)}
        shapes |= {} if bare else OWN.get(architecture, {})
        for name, shape in shapes.items():
            add(f"blk.{layer}.{name}{'' if '.' in name else '.weight'}", *shape)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path
