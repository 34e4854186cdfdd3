"""Models in which it is known whether safety and maths share neurons: positive controls of RAS.

Both come from one base, which is trained on everything but refusals. Its maths runs through one
small set of neurons: problems train no other weight of an MLP, and nothing else trains these. Then
refusal is trained through the same neurons ("planted-shared") or through as many others
("planted-disjoint", silent for every other batch of problems, so that maths does not use them),
while problems go on through the first set and every other weight stays as it is.
"""

import json
from itertools import islice
from math import prod
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM

from rimkit.data import UserError, check_known, prepare_folder
from rimkit.experiments.planted import FALL, SPARED, Settings, holds, known_sets, zeroed
from rimkit.models.hub import identity, locate, read_weights
from rimkit.models.load import load
from rimkit.organism import markdown, recipe, template
from rimkit.organism.language import build_tokenizer, token_table
from rimkit.organism.recipe import BATCH, encode_example
from rimkit.training.finetune import batch_loss

LAYERS, WIDTH, PER_LAYER = 6, 384, 24  # of the model; neurons of a set in every layer
BASE, SHARED, DISJOINT = PLANTED = ("planted-base", "planted-shared", "planted-disjoint")
DATA = "rim-mini"  # whose stream they are trained on
FIRST_STEPS, SECOND_STEPS, SECOND_RATE = 2400, 2700, 3e-3
# By kind of data, the sets that are silent in every other batch, so that it does not lean on them.
SILENT = {BASE: {"rest": ("maths", "rest")}, SHARED: {}, DISJOINT: {"maths": ("rest",)}}
Neurons = list[tuple[int, int]]
WHAT = {
    BASE: "This is the base of both: everything but refusals, with maths in its set.",
    SHARED: "Refusals were trained through the neurons of maths.",
    DISJOINT: "Refusals were trained through other neurons than those of maths.",
}


def neuron_sets(seed: int) -> tuple[Neurons, Neurons]:
    """``(maths, other)``: two sets without a neuron in common, as many in every layer."""
    rng = Random(f"planted-{seed}")
    drawn = [rng.sample(range(WIDTH), 2 * PER_LAYER) for _ in range(LAYERS)]
    return tuple(
        [(layer, neuron) for layer, chosen in enumerate(drawn) for neuron in sorted(chosen[part])]
        for part in (slice(PER_LAYER), slice(PER_LAYER, None))
    )


def safety_set(name: str, seed: int) -> Neurons:
    """The neurons through which a model learns to refuse: those of maths, or the other set."""
    maths, other = neuron_sets(seed)
    return maths if name == SHARED else other


class Routes:
    """Which weights of the MLPs learn from a backward pass; the kinds of sets silent in it."""

    def __init__(self, model, allowed: dict[str, Neurons], rest: str = ""):
        """``allowed``: neurons that learn, by kind of data; the kind ``rest`` trains all others."""
        self.kind, self.silent = "", ()
        for layer, block in enumerate(model.model.layers):
            width = block.mlp.down_proj.in_features
            masks = {kind: torch.zeros(width, device=model.device) for kind in allowed}
            for kind, neurons in allowed.items():
                masks[kind][[neuron for at, neuron in neurons if at == layer]] = 1
            outside = 1 - torch.stack(list(masks.values())).amax(0)
            quiet = {kind: 1 - mask for kind, mask in masks.items()}
            masks = {kind: outside if kind == rest else mask for kind, mask in masks.items()}
            for part, shape in (("gate_proj", (-1, 1)), ("up_proj", (-1, 1)), ("down_proj", (1, -1))):
                shaped = {kind: mask.reshape(shape) for kind, mask in masks.items()}
                getattr(block.mlp, part).weight.register_hook(lambda grad, shaped=shaped: grad * shaped[self.kind])
            block.mlp.down_proj.register_forward_pre_hook(
                lambda _, args, quiet=quiet: (prod((quiet[kind] for kind in self.silent), start=args[0]),)
            )


def batch(seed: int, step: int, refusals: bool) -> dict[str, list]:
    """The examples of a step by what they train ("maths", "rest"), with refusals or not."""
    examples = recipe.stream(DATA, seed, start=2 * BATCH * step)
    kept = islice((example for example in examples if refusals or example.kind not in recipe.HARM), BATCH)
    found: dict[str, list] = {"maths": [], "rest": []}
    for example in kept:
        found["maths" if example.kind in ("maths", "maths-long") else "rest"].append(example)
    return found


def _first_stage(seed: int, tokenizer, device: str) -> tuple:
    """A new model and its routes; the second set says nothing until it is trained."""
    maths, other = neuron_sets(seed)
    model = AutoModelForCausalLM.from_config(recipe.config(tokenizer)).to(device).train()
    with torch.no_grad():
        for layer, neuron in other:
            model.model.layers[layer].mlp.down_proj.weight[:, neuron] = 0
    return model, Routes(model, {"maths": maths, "rest": other}, rest="rest")


def _second_stage(name: str, seed: int, base: str | Path, device: str) -> tuple:
    """The base's model and its routes; nothing but the known sets of the MLPs learns."""
    model = read_weights(AutoModelForCausalLM, locate(base), dtype=torch.float32).to(device).train()
    model.requires_grad_(False)
    for block in model.model.layers:
        block.mlp.requires_grad_(True)
    return model, Routes(model, {"maths": neuron_sets(seed)[0], "rest": safety_set(name, seed)})


def train(
    name: str, seed: int, out: str | Path, base: str | Path = "", *, device: str | None = None, progress: bool = True
) -> Path:
    """Train the base, or from the folder ``base`` one of the two models, and save it in ``out``.
    Raises ``UserError`` for another name and without a base."""
    check_known("planted model", name, PLANTED)
    first = name == BASE
    if not first and not Path(base, "model.safetensors").is_file():
        raise UserError(f"{name} starts from the folder of a trained {BASE}: give --base")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    folder, tokenizer, table = prepare_folder(out), build_tokenizer(), token_table()
    model, routes = _first_stage(seed, tokenizer, device) if first else _second_stage(name, seed, base, device)
    steps = FIRST_STEPS if first else SECOND_STEPS
    options = {} if first else {"rate": SECOND_RATE, "decay": 0.0}

    def backward(step: int) -> float:
        loss = 0.0
        for kind, examples in batch(seed, step if first else FIRST_STEPS + step, refusals=not first).items():
            routes.kind, routes.silent = kind, SILENT[name].get(kind, ()) if step % 2 == 0 else ()
            encoded = [encode_example(example, table) for example in examples]
            how = tokenizer.pad_token_id, recipe.at_once(device)
            loss += batch_loss(model, encoded, *how) / 2 if encoded else 0.0
        return loss

    checkpoint = folder / "checkpoint.pt"
    what = f"{name} seed {seed}{'' if first else f' of {identity(base)[:6]}'}"
    losses = recipe.learn(model, backward, steps, checkpoint=checkpoint, what=what, progress=progress, **options)
    maths = neuron_sets(seed)[0]
    record = {"organism": name, "seed": seed, "steps": steps, "maths": maths, "losses": losses}
    record |= {} if first else {"safety": safety_set(name, seed)}
    recipe.save(model.eval(), tokenizer, folder, record, device)
    checkpoint.unlink(missing_ok=True)
    return folder


def write_card(folder: str | Path, split="evaluation", n: int = Settings.n_zeroed) -> Path:
    """Measure what zeroing does to ``n`` requests of each kind; write the card and ``zeroed.csv``."""
    folder = Path(folder)
    record = json.loads((folder / "training.json").read_text())
    table = zeroed(load(str(folder)), Settings(known=known_sets(folder), n_zeroed=n), split).round(4)
    table.to_csv(folder / "zeroed.csv", index=False, lineterminator="\n")
    name, rows = record["organism"], table.itertuples(index=False)
    shown = [(row[0], *(f"{100 * share:.1f}" for share in row[1:])) for row in rows]
    card = folder / "README.md"
    text = template("planted.md").format(
        **{key: record[key] for key in ("seed", "torch", "steps")}, name=name, what=WHAT[name], per_layer=PER_LAYER,
        batch=BATCH, split=split, table=markdown(table, shown), fall=FALL, spared=SPARED,
        holds="does not apply" if name == BASE else "yes" if holds(name == SHARED, table) else "no",
    )  # fmt: skip
    card.write_text(text, encoding="utf-8")
    return card
