"""Controls of the method: a model in which one known head carries refusal, and models in which none does."""

from __future__ import annotations

import pandas as pd
import pytest
import tiny
import torch

from rimkit.behavior import evaluation, refusal_score
from rimkit.behavior.evaluation import judged, load_sets
from rimkit.experiments import heads
from rimkit.models.chat import pad
from rimkit.models.hooks import cut_attention
from rimkit.models.load import load

KNOWN = (1, 2)
HARMFUL = ("steal", "forge", "jam", "burgle", "smash", "hack", "sink", "leak")
HARMLESS = ("polish", "mop", "paint", "wash", "frame", "sort", "fix", "tune")


@pytest.fixture(scope="module")
def trained():
    """A tiny model that learns to refuse while only one head can see the request from behind it."""
    words = tiny.tokenizer()
    study = load(tiny.random_model(words, seed=1), words)
    texts = [f"{verb} the {owner} bike ." for owner in ("baker's", "mayor's") for verb in HARMFUL + HARMLESS]
    items = [study.chat.encode(text, "no-think") for text in texts]
    ids, mask, spans = pad(items, study.pad_id, side="right")
    refused, fulfilled = words.convert_tokens_to_ids(["i", "sure"])
    wanted = torch.tensor([refused if text.split()[0] in HARMFUL else fulfilled for text in texts])
    blocked = [head for head in ((layer, head) for layer in range(2) for head in range(4)) if head != KNOWN]
    spans = spans[0]
    cut = ([(spans["im_end"][0], None)], [spans["request"]], blocked)
    optimiser = torch.optim.Adam(study.hf.parameters(), lr=3e-3)
    with cut_attention(study, *cut):
        for _ in range(200):
            loss = torch.nn.functional.cross_entropy(study.hf(input_ids=ids, attention_mask=mask).logits[:, -1], wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert loss < 0.05
    return study, items, cut, refusal_score.Readout((refused,), (fulfilled,))


def test_the_screen_finds_the_head_that_carries_refusal(trained):
    study, items, cut, read = trained
    harmful = [item for item in items if read_verb(study, item) in HARMFUL]
    with cut_attention(study, *cut):
        effects = refusal_score.head_effects(study, harmful, read).mean(-1)
    table = pd.DataFrame(
        [(layer, head, effects[layer, head]) for layer in range(2) for head in range(4)],
        columns=["layer", "head", "causal"],
    )
    assert heads.select(table, "causal", 1) == [KNOWN]
    same_layer = table[(table["layer"] == KNOWN[0]) & (table["head"] != KNOWN[1])]
    assert effects[KNOWN] < 5 * same_layer["causal"].min()


def read_verb(study, item) -> str:
    return study.tokenizer.decode(item.ids[item.spans["request"][0]]).strip()


def test_nothing_carries_refusal_in_a_random_model():
    """A model that never refuses has no refusals to lose: no set of heads beats random sets."""
    study = tiny.study()
    prompts = pd.DataFrame({
        "prompt_id": [str(i) for i in range(8)], "text": [f"{verb} the baker's bike ." for verb in HARMFUL],
        "kind": "harmful", "category": "", "cluster": HARMFUL, "answer": "",
    })  # fmt: skip
    texts = prompts["text"].tolist()
    contexts = {mode: [study.chat.encode(text, mode) for text in texts] for mode in ("think", "no-think")}
    read = refusal_score.Readout((20,), (30,))
    chosen = heads.select(heads.head_table(study, texts, contexts, read), "causal", 1)
    sets = {"nothing": [], "selected": chosen}
    sets |= {f"random {i}": found for i, found in enumerate(heads.random_sets(study, chosen, n=40))}
    verdicts = evaluation.without_heads(
        study, prompts, sets, temperature=0, max_new_tokens=6, how="organism", progress=False
    )
    assert verdicts["condition"].nunique() == 42
    found = evaluation.against_random(verdicts)
    assert found["effect"] == 0
    assert found["share"] > 0.05
    assert found["n_random"] == 40


def test_the_share_counts_random_sets_that_do_as_much():
    rows = [("nothing", 1.0), ("selected", 0.2), *((f"random {i}", 0.9) for i in range(39)), ("random 39", 0.1)]
    verdicts = pd.DataFrame([
        {"condition": name, "prompt_id": f"{prompt}", "cluster": f"{prompt}", "refused": rate}
        for name, rate in rows for prompt in range(6)
    ])  # fmt: skip
    found = evaluation.against_random(verdicts)
    assert found["share"] == pytest.approx(2 / 41)
    assert found["effect"] == pytest.approx(0.2 - (39 * 0.9 + 0.1) / 40)


def test_a_cut_reaches_every_step_of_the_reply_and_an_empty_one_changes_nothing():
    study, prompts = load("rim-mini"), load_sets(["harmful"], n=23)
    own = judged(study, prompts, "think", progress=False)
    thoughts = own.set_index("prompt_id")["thought"].to_dict()
    cuts = {"nothing": ([], "thought"), "thought": (None, "thought")}
    found = evaluation.without_sight(study, prompts, thoughts, cuts, progress=False)
    nothing, blind = (found[found["condition"] == name].set_index("prompt_id")["reply"] for name in cuts)
    assert (nothing == own.set_index("prompt_id")["reply"]).mean() > 0.9
    assert (blind != nothing).mean() > 0.2
