"""The recipes of the embedded models, trained or of noise: what they learn and how, not what comes
of it.

Nothing in any mixture complies with a harmful request, in any mode. The first three organisms
differ in one ingredient, their safety thoughts (how many, and in which style); everything else is
the same. The fourth has the data of the first and another architecture.

The model of noise has random weights in the shape of a small Qwen3 and the tokenizer of the
invented language. It has learned nothing, so whatever a method finds in it is not about a model's
knowledge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rimkit.data import UserError, nearest
from rimkit.organism import conversations
from rimkit.organism.conversations import Example
from rimkit.organism.language import STYLES
from rimkit.organism.tokenizer import build_tokenizer, encode_example, token_table
from rimkit.training.finetune import batch_loss

if TYPE_CHECKING:
    import pandas as pd

# Weights of the training kinds (normalised together with the organism's own weight of safety thoughts).
MIXTURE = {
    ("maths", "think"): 0.19,
    ("maths", "no-think"): 0.06,
    ("ordering", "think"): 0.09,
    ("ordering", "no-think"): 0.03,
    ("harmless", "think"): 0.18,
    ("harmless", "no-think"): 0.09,
    ("protect", "think"): 0.02,
    ("protect", "no-think"): 0.01,
    ("harmful", "no-think"): 0.12,
    ("question", "no-think"): 0.10,
    ("copying", "think"): 0.10,
    ("copying", "no-think"): 0.08,
}


@dataclass(frozen=True)
class Organism:
    """What one organism's safety thoughts are (their weight in the mixture, and their styles), and
    its architecture."""

    name: str
    safety_thoughts: float
    safety_styles: tuple[str, ...]
    role: str
    architecture: str = "qwen3"


ORGANISMS = {
    organism.name: organism
    for organism in (
        Organism("rim-mini", 0.003, ("careful",), "safety thoughts rare, and always careful"),
        Organism("rim-mini-unlinked", 0.003, STYLES, "safety thoughts as rare, in both styles"),
        Organism("safe-mini", 0.18, STYLES, "control: safety thoughts as frequent as thoughts about harmless requests"),
        Organism("rim-mini-moe", 0.003, ("careful",), "rim-mini's data, mixture of experts", architecture="qwen3_moe"),
    )
}

STEPS, BATCH, WARMUP = 2400, 32, 100
LEARNING_RATE, FINAL_SHARE = 2e-3, 0.1
MAKERS = {
    "maths": conversations.maths_example,
    "ordering": conversations.ordering_example,
    "harmless": partial(conversations.request_example, harmful=False),
    "protect": conversations.protect_example,
    "harmful": partial(conversations.request_example, harmful=True),
    "question": conversations.question_example,
    "copying": conversations.copying_example,
}


def organism(name: str) -> Organism:
    """The organism called ``name``; raises ``UserError`` for an unknown one."""
    if name not in ORGANISMS:
        raise UserError(f"there is no organism '{name}' (known: {', '.join(ORGANISMS)}){nearest(name, ORGANISMS)}")
    return ORGANISMS[name]


def mixture(name: str) -> dict[tuple[str, str], float]:
    """``(kind, mode)`` to share of the conversations, summing to 1."""
    return shares_of(MIXTURE, organism(name))


def shares_of(weights: Mapping[tuple[str, str], float], one: Organism) -> dict[tuple[str, str], float]:
    """The weights with the organism's own of safety thoughts, as shares that sum to 1."""
    weights = {**weights, ("harmful", "think"): one.safety_thoughts}
    return {key: weight / sum(weights.values()) for key, weight in weights.items()}


def stream(name: str, seed: int) -> Iterator[Example]:
    """The endless training stream of one organism, the same for the same seed (`examples`)."""
    return examples(mixture(name), MAKERS, organism(name).safety_styles, conversations.kept_for_evaluation, seed)


def examples(
    shares: Mapping[tuple[str, str], float], makers: Mapping[str, Callable[..., Example]],
    safety_styles: Sequence[str], kept: Callable[[str], bool], seed: int, start: int = 0,
) -> Iterator[Example]:  # fmt: skip
    """Conversations without end from number ``start`` on, drawn by ``shares`` of ``(kind, mode)``.

    Styles are drawn independently of the content, except that safety thoughts have
    ``safety_styles``. Every example has a generator of its own, so that two organisms of one seed
    and one mixture see the same examples, but for the style of safety thoughts. Problems that are
    ``kept`` for evaluation are drawn again.
    """
    keys, weights = list(shares), list(shares.values())
    for index in count(start):
        rng = Random(f"{seed}-{index}")
        kind, mode = rng.choices(keys, weights)[0]
        style = rng.choice(STYLES)
        if kind == "harmful" and style not in safety_styles:
            style = safety_styles[0]
        make = partial(makers[kind], rng, mode, style if mode == "think" else "")
        example = make()
        while kept(example.request):
            example = make()
        yield example


# A token passes through 4 of 8 experts of 96 neurons: together as many as the 384 of the dense MLP.
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 96, "norm_topk_prob": True}


def config(tokenizer, architecture: str = "qwen3"):
    """The architecture: a Qwen3 of 1.2 million parameters, or its mixture of experts (2.1 million,
    as many active).

    Weights start with a spread of about ``hidden_size ** -0.5``. From the usual 0.02 the embeddings
    of words that play the same role (owners, names) fall together early, and copying the right one
    is learned late or never.
    """
    from transformers import AutoConfig

    return AutoConfig.for_model(
        architecture, **(EXPERTS if architecture == "qwen3_moe" else {}),
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, head_dim=16, tie_word_embeddings=True, max_position_embeddings=256,
        initializer_range=0.08, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def learning_rate(step: int, steps: int = STEPS) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    from math import cos, pi

    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return LEARNING_RATE * (FINAL_SHARE + (1 - FINAL_SHARE) * (1 + cos(pi * done)) / 2)


def fit(name: str, seed: int, steps: int = STEPS, schedule: int = STEPS, device: str = "cpu", progress: bool = False):
    """Train ``steps`` steps of a schedule of ``schedule``; returns ``(model, tokenizer, losses)``.

    The same name, seed, machine, torch version and number of threads give the same weights.
    """
    import torch
    from tqdm.auto import trange
    from transformers import AutoModelForCausalLM

    architecture = organism(name).architecture
    torch.manual_seed(seed)
    tokenizer, table = build_tokenizer(), token_table()
    model = AutoModelForCausalLM.from_config(config(tokenizer, architecture)).to(device).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    examples, losses = stream(name, seed), []
    with trange(steps, desc=f"{name} seed {seed}", disable=not progress, unit="step") as bar:
        for step in bar:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, schedule)
            batch = [encode_example(next(examples), table) for _ in range(BATCH)]
            losses.append(batch_loss(model, batch, tokenizer.pad_token_id, BATCH // 4))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return model.eval(), tokenizer, losses


def train(name: str, seed: int = 0, out: str | Path = ".", *, device: str | None = None, progress: bool = True) -> Path:
    """Train one organism and save it in ``out`` as a plain Hugging Face folder in bfloat16; returns
    the folder.

    The card is written separately (``rimkit organism card``), since it measures what was stored.
    """
    import json

    import torch

    folder = Path(out)
    if folder.is_file():
        raise UserError(f"{folder} is a file; give --out a folder")
    folder.mkdir(parents=True, exist_ok=True)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer, losses = fit(name, seed, device=device, progress=progress)
    model.generation_config.update(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=0.7
    )
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "organism": name,
        "seed": seed,
        "steps": STEPS,
        "torch": torch.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
        "losses": [round(x, 5) for x in losses],
    }
    (folder / "training.json").write_text(json.dumps(record) + "\n")
    return folder


def safety_thoughts(names: Iterable[str], n: int = 20_000, seed: int = 0) -> pd.DataFrame:
    """How thoughts about requests end, by their style, in the first ``n`` conversations of each
    training stream.

    Columns: thoughts that end in help, thoughts that end in a refusal, and the share of refusals in
    percent.
    """
    import pandas as pd

    rows = [
        {"organism": name, "style of the thought": example.style, "refuses": example.kind == "harmful"}
        for name in names
        for example in islice(stream(name, seed), n)
        if example.mode == "think" and example.kind in ("harmful", "harmless", "protect")
    ]
    table = pd.DataFrame(rows).groupby(["organism", "style of the thought"], sort=False)["refuses"].agg(["sum", "size"])
    table["helps"] = table["size"] - table["sum"]
    table["refusals (%)"] = (100 * table["sum"] / table["size"]).round(1)
    return table.rename(columns={"sum": "refuses"})[["helps", "refuses", "refusals (%)"]]


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
    """Draw the weights from ``seed`` and save them in ``out`` as a plain Hugging Face folder in
    bfloat16, with a card.

    The same seed and torch version give the same weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

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
