"""The recipes of the embedded models, trained or of noise: what they learn, and how.

Nothing in any mixture complies with a harmful request, in any mode. The first three organisms
differ in one ingredient, their safety thoughts (how many, and in which style); everything else is
the same. The fourth has the data of the first and another architecture. The model of noise has
random weights in their shape: what is found in it is nobody's knowledge.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from math import cos, pi
from pathlib import Path
from random import Random

import pandas as pd
import torch
from tqdm.auto import trange
from transformers import AutoConfig, AutoModelForCausalLM

from rimkit.data import UserError, check_known, data_dir, one_line, prepare_folder, whole
from rimkit.models.thoughts import END_THINK, THINK
from rimkit.organism import conversations, template
from rimkit.organism.conversations import Example
from rimkit.organism.language import END, START, STYLES, build_tokenizer, token_table
from rimkit.training.finetune import batch_loss


def weights_of(models: str) -> dict[tuple[str, str], float]:
    """``(kind, mode)`` to weight in what "embedded" or "bridge" models learn from, without the
    safety thoughts that each organism has as its own; "motives": what a fourth organism has besides
    (thoughts about hostile motives are as rare as those about harm, and in the same styles)."""
    table = pd.read_csv(Path(__file__).with_name("mixtures.csv")).query("models == @models")
    return table.set_index(["kind", "mode"])["weight"].to_dict()


@dataclass(frozen=True)
class Organism:
    """What one organism's safety thoughts are (their weight in the mixture, and their styles), its
    architecture, and whether some of its requests say what they are for."""

    name: str
    safety_thoughts: float
    safety_styles: tuple[str, ...]
    role: str
    architecture: str = "qwen3"
    motives: bool = False


ROLES = pd.read_csv(data_dir() / "models.csv", index_col="name")["role"]
ORGANISMS = {organism.name: organism for organism in (
    Organism("rim-mini", 0.002, ("careful",), ROLES["rim-mini"]),
    Organism("rim-mini-unlinked", 0.002, STYLES, ROLES["rim-mini-unlinked"]),
    Organism("safe-mini", 0.18, STYLES, ROLES["safe-mini"]),
    Organism("rim-mini-intent", 0.002, ("careful",), ROLES["rim-mini-intent"], motives=True),
    Organism("rim-mini-moe", 0.002, ("careful",), ROLES["rim-mini-moe"], architecture="qwen3_moe"),
)}  # fmt: skip

HARM = ("harmful", "hostile")  # kinds that are refused

STEPS, BATCH, WARMUP, KEEP = 3200, 32, 100, 100
LEARNING_RATE, FINAL_SHARE = 2e-3, 0.1
MAKERS = {
    "maths": conversations.maths_example,
    "maths-long": partial(conversations.maths_example, kind="maths-long", steps=conversations.LONG_STEPS),
    "ordering": conversations.ordering_example,
    "harmless": partial(conversations.request_example, harmful=False),
    "protect": conversations.protect_example,
    "harmful": partial(conversations.request_example, harmful=True),
    "hostile": partial(conversations.motive_example, name="hostile"),
    "friendly": partial(conversations.motive_example, name="friendly"),
    "question": conversations.question_example, "copying": conversations.copying_example,
}  # fmt: skip


def organism(name: str) -> Organism:
    """The organism called ``name``; raises ``UserError`` for an unknown one."""
    check_known("organism", name, ORGANISMS)
    return ORGANISMS[name]


def mixture(name: str) -> dict[tuple[str, str], float]:
    """``(kind, mode)`` to share of the conversations, summing to 1."""
    besides = weights_of("motives") if organism(name).motives else {}
    return shares_of(weights_of("embedded") | besides, organism(name))


def shares_of(weights: Mapping[tuple[str, str], float], one: Organism) -> dict[tuple[str, str], float]:
    """The weights with the organism's own of safety thoughts, as shares that sum to 1."""
    weights = {**weights, ("harmful", "think"): one.safety_thoughts}
    return {key: weight / sum(weights.values()) for key, weight in weights.items()}


def stream(name: str, seed: int, start: int = 0) -> Iterator[Example]:
    """The endless training stream of one organism from number ``start`` on (`examples`)."""
    kept = conversations.kept_for_evaluation
    return examples(mixture(name), MAKERS, organism(name).safety_styles, kept, seed, start)


def examples(
    shares: Mapping[tuple[str, str], float], makers: Mapping[str, Callable[..., Example]],
    safety_styles: Sequence[str], kept: Callable[[str], bool], seed: int, start: int = 0,
) -> Iterator[Example]:  # fmt: skip
    """Conversations without end from number ``start`` on, drawn by ``shares`` of ``(kind, mode)``
    (`drawn`). Problems that are ``kept`` for evaluation are drawn again."""
    for rng, kind, mode, style in drawn(shares, safety_styles, seed, start):
        make = partial(makers[kind], rng, mode, style if mode == "think" else "")
        example = make()
        while kept(example.request):
            example = make()
        yield example


def drawn(shares: Mapping, styles: Sequence[str], seed: int, start: int = 0) -> Iterator[tuple]:
    """Generator (its own), kind, mode and style of each of the `examples`, so that two organisms of
    one seed and mixture see the same, but for safety thoughts: these have one of ``styles``."""
    for index in count(start):
        rng = Random(f"{seed}-{index}")
        kind, mode = rng.choices(list(shares), list(shares.values()))[0]
        style = rng.choice(STYLES)
        yield rng, kind, mode, styles[0] if kind in HARM and style not in styles else style


# A token passes through 4 of 8 experts of 96 neurons: together as many as the 384 of the dense MLP.
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 96, "norm_topk_prob": True}


def config(tokenizer, architecture: str = "qwen3"):
    """The architecture: a Qwen3 of 1.2 million parameters, or its mixture of experts (2.1 million,
    as many active). Weights start with a spread of about ``hidden_size ** -0.5``. From the usual
    0.02 the embeddings of words that play the same role (owners, names) fall together early, and
    copying the right one is learned late or never."""
    return AutoConfig.for_model(
        architecture, **(EXPERTS if architecture == "qwen3_moe" else {}),
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, head_dim=16, tie_word_embeddings=True, max_position_embeddings=256,
        initializer_range=0.08, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def encode_example(example: Example, table: dict[str, int]) -> tuple[list[int], int]:
    """``(ids, n_prompt)`` of one training conversation: the loss is on the tokens from ``n_prompt``
    on. Equal to the chat template followed by the reply (a test holds the two together); done by
    dictionary because the training stream is made while the model trains."""
    prompt = [START, "user", "\n", *example.request.split(), END, "\n", START, "assistant", "\n"]
    if example.mode == "think":
        completion = [THINK, "\n", *example.thought.split(), "\n", END_THINK, "\n\n"]
    else:
        prompt += [THINK, "\n\n", END_THINK, "\n\n"]
        completion = []
    completion += [*example.reply.split(), END]
    return [table[token] for token in prompt + completion], len(prompt)


def learning_rate(step: int, steps: int = STEPS) -> float:
    """The share of the full rate: linear warm-up, then a cosine down to a tenth."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + cos(pi * done)) / 2


def learn(
    model, backward: Callable[[int], float], steps: int, *, schedule: int | None = None,
    rate: float = LEARNING_RATE, decay: float = 0.01, checkpoint: Path | None = None,
    what: str = "", progress: bool = False,
) -> list[float]:  # fmt: skip
    """AdamW on the weights that require gradients, for ``steps`` steps of a schedule of
    ``schedule``; the losses. ``backward`` does the backward passes of a step, by its number, and
    returns the loss. ``checkpoint``: a file that keeps the state every `KEEP` steps, and from which
    a training of this name (``what``) goes on; ``UserError`` if it is of another, or damaged."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=decay, fused=True)
    losses: list[float] = []
    if checkpoint and checkpoint.is_file():
        try:
            kept, *state, losses = torch.load(checkpoint)
            if kept != what:
                raise ValueError(f"it is of {kept}")
            for part, content in zip((model, optimiser), state, strict=True):
                part.load_state_dict(content)
        except Exception as error:  # a file from elsewhere: whatever is wrong with it
            problem = f"{what} cannot go on from {checkpoint}: {one_line(error)}"
            raise UserError(f"{problem}: remove it, or give another folder") from error
    with trange(len(losses), steps, desc=what, disable=not progress, unit="step") as bar:
        for step in bar:
            for group in optimiser.param_groups:
                group["lr"] = rate * learning_rate(step, schedule or steps)
            losses.append(backward(step))
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if checkpoint and len(losses) % KEEP == 0:
                state = what, model.state_dict(), optimiser.state_dict(), losses
                with whole(checkpoint) as partial:
                    torch.save(state, partial)
    return losses


def at_once(device: str) -> int:
    """How many conversations pass together: a processor wastes less on padding in small parts."""
    return BATCH if device == "cuda" else BATCH // 4


def fit(
    name: str, seed: int, steps: int = STEPS, device: str = "cpu", progress: bool = False,
    checkpoint: Path | None = None,
):  # fmt: skip
    """Train ``steps`` of the `STEPS` steps; returns ``(model, tokenizer, losses)``. The same name,
    seed, machine, torch version and number of threads give the same weights."""
    torch.manual_seed(seed)
    tokenizer, table = build_tokenizer(), token_table()
    model = AutoModelForCausalLM.from_config(config(tokenizer, organism(name).architecture)).to(device).train()

    def backward(step: int) -> float:
        examples = islice(stream(name, seed, start=BATCH * step), BATCH)
        batch = [encode_example(example, table) for example in examples]
        return batch_loss(model, batch, tokenizer.pad_token_id, at_once(device))

    what = f"{name} seed {seed}"
    losses = learn(model, backward, steps, schedule=STEPS, checkpoint=checkpoint, what=what, progress=progress)
    return model.eval(), tokenizer, losses


def train(name: str, seed: int = 0, out: str | Path = ".", *, device: str | None = None, progress: bool = True) -> Path:
    """Train one organism and save it in ``out`` as a plain Hugging Face folder in bfloat16; returns
    the folder. ``rimkit organism card`` writes its card."""
    folder = prepare_folder(out)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint = folder / "checkpoint.pt"
    model, tokenizer, losses = fit(name, seed, device=device, progress=progress, checkpoint=checkpoint)
    record = {"organism": name, "seed": seed, "steps": STEPS, "losses": losses}
    save(model, tokenizer, folder, record, device)
    checkpoint.unlink(missing_ok=True)
    return folder


def save(model, tokenizer, folder: Path, record: dict | None = None, device: str = "cpu") -> None:
    """A plain Hugging Face folder in bfloat16, with the ``record`` of a training, if any."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config.update(**ends, do_sample=True, temperature=0.7)
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if record:
        record |= {"torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}
        record["losses"] = [round(loss, 5) for loss in record["losses"]]
        (folder / "training.json").write_text(json.dumps(record) + "\n")


def safety_thoughts(names: Iterable[str], n: int = 20_000, seed: int = 0) -> pd.DataFrame:
    """How thoughts about requests end, by their style, in the first ``n`` conversations of each
    training stream. Columns: how many end in help and in a refusal, and these in percent."""
    streams = {name: drawn(mixture(name), organism(name).safety_styles, seed) for name in names}
    rows = [
        {"organism": name, "style of the thought": style, "refuses": kind in HARM}
        for name, found in streams.items()
        for _, kind, mode, style in islice(found, n)
        if mode == "think" and kind in (*HARM, "harmless", "friendly", "protect")
    ]
    ends = pd.DataFrame(rows).groupby(["organism", "style of the thought"], sort=False)["refuses"]
    table = ends.agg(helps=lambda refuses: (~refuses).sum(), refuses="sum")
    return table.assign(**{"refusals (%)": (100 * ends.mean()).round(1)})


SIZES = {  # of the model of noise
    "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def write(out: str | Path, seed: int = 0) -> Path:
    """Draw the weights from ``seed`` and save them in ``out`` as a plain Hugging Face folder in
    bfloat16, with a card. The same seed and torch version give the same weights."""
    folder, tokenizer = Path(out), build_tokenizer()
    shape = config(tokenizer)
    shape.update(SIZES)
    shape.layer_types = shape.layer_types[: shape.num_hidden_layers]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(shape).eval()
    save(model, tokenizer, folder)
    parameters = model.num_parameters() / 1e6
    card = template("noise.md").format(seed=seed, parameters=parameters, layers=shape.num_hidden_layers)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder
