"""The model of noise: random weights in the shape of a small Qwen3, and the tokenizer of the invented language.

It has learned nothing, so whatever a method finds in it is not about a model's knowledge.
"""

from __future__ import annotations

from pathlib import Path

from rimkit.organism.recipe import config

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CARD = """\
---
license: apache-2.0
library_name: transformers
tags: [negative-control, interpretability]
---
# noise-mini, seed {seed}

Random weights in the shape of a small Qwen3 ({parameters:.2f} million parameters, {layers} layers), never trained;
made by `rimkit organism noise --seed {seed}`. Its tokenizer and chat format are those of the workbook's model
organisms, its replies are debris. It is a negative control: every claim about reasoning-induced misalignment must come
out as *no effect* or *undecided* in it, and a method that finds something here finds it in noise.
"""


def write(out: str | Path, seed: int = 0) -> Path:
    """Draw the weights from ``seed`` and save them in ``out`` as a plain Hugging Face folder in bfloat16, with a card.

    The same seed and torch version give the same weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from rimkit.organism.tokenizer import build_tokenizer

    folder, tokenizer = Path(out), build_tokenizer()
    shape = config(tokenizer)
    shape.update(SIZES)
    shape.layer_types = shape.layer_types[: shape.num_hidden_layers]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(shape).eval()
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=0.7
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parameters = model.num_parameters() / 1e6
    card = CARD.format(seed=seed, parameters=parameters, layers=shape.num_hidden_layers)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder
